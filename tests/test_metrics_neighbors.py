"""The neighbour search against brute force, planted copies, duplicates and mirror images."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from kinetic.metrics import neighbors
from kinetic.metrics.neighbors import nearest
from kinetic.metrics.reference import ReferenceIndex


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (3, 8, 8)) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def direct(queries: Tensor, reference: Tensor) -> Tensor:
    """All distances in float64 from differences."""
    return torch.stack([(reference.double() - q.double()).flatten(1).norm(dim=1) for q in queries])


@pytest.mark.parametrize("distance", [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
def test_planted_copies_are_found_at_their_distance(distance: float) -> None:
    reference = images(3000)
    direction = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    direction /= direction.flatten(1).norm(dim=1)[:, None, None, None]
    chosen = torch.arange(20) * 137
    queries = reference[chosen].double() + distance * direction  # in float64, so that rounding plants nothing else
    found = nearest(queries, reference)
    assert torch.equal(found.indices[:, 0], chosen)
    assert torch.allclose(found.distances[:, 0], torch.full((20,), distance, dtype=torch.float64), rtol=1e-5)
    expected = direct(queries, reference).sort(1).values[:, 1]
    assert torch.allclose(found.distances[:, 1], expected, rtol=1e-6)


def test_float32_copies_far_from_the_origin_keep_their_distance() -> None:
    reference = images(500) + 3
    queries = reference[:10] + 1e-4 * torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found = nearest(queries, reference)
    assert torch.allclose(found.distances, direct(queries, reference).sort(1).values[:, :2], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_agrees_with_scikit_learn(dtype: torch.dtype, k: int) -> None:
    reference, queries = images(2500).to(dtype), images(60, seed=1).to(dtype)
    brute = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=lambda a, b: np.linalg.norm(a - b))
    brute.fit(reference.double().flatten(1).numpy()[:300])
    distances, indices = brute.kneighbors(queries.double().flatten(1).numpy())
    found = nearest(queries, reference[:300], k=k)
    assert np.array_equal(found.indices.numpy(), indices)
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-6)
    fast = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(reference.double().flatten(1).numpy())
    distances, indices = fast.kneighbors(queries.double().flatten(1).numpy())
    found = nearest(queries, reference, k=k)
    assert np.array_equal(found.indices.numpy(), indices)
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_chunks_streams_and_blocks_change_nothing(flip: bool) -> None:
    reference, queries = images(700), images(50, seed=1)
    whole = nearest(queries, reference, flip=flip)
    pieces = [(part, torch.arange(700).split(123)[i]) for i, part in enumerate(reference.split(123))]
    for source in (reference, list(reference.split(70)), pieces):
        for chunk, block in ((1, 7), (33, 50), (699, 1), (None, 1024)):
            other = nearest(queries, source, flip=flip, chunk=chunk, block=block)
            assert torch.equal(other.indices, whole.indices)
            assert torch.allclose(other.distances, whole.distances, rtol=1e-6)


def test_wide_blocks_pick_the_lowest_columns() -> None:
    scores = torch.randn(40, 4101, generator=torch.Generator().manual_seed(3))
    scores[0, -1] = -100.0  # in the tail that no group of columns covers
    scores[1, :8] = -50.0 - torch.arange(8)  # neighbours in different groups
    scores[2, 5::128] = -60.0 - torch.arange(32)  # all in one group
    low, columns = neighbors._lowest(scores, 8)
    assert torch.equal(low.sort(1).values, scores.sort(1).values[:, :8])
    assert torch.equal(scores.gather(1, columns), low)


def test_mirrored_copies_are_found_where_flips_are_on() -> None:
    reference = images(400)
    queries = reference[[5, 250]].flip(-1)
    off, on = nearest(queries, reference), nearest(queries, reference, flip=True)
    assert (off.distances[:, 0] > 1).all()
    assert on.indices[:, 0].tolist() == [5, 250]
    assert on.distances[:, 0].tolist() == [0, 0]
    both = torch.minimum(direct(queries, reference), direct(queries.flip(-1), reference)).sort(1)
    assert torch.allclose(on.distances, both.values[:, :2], rtol=1e-6)
    assert torch.equal(on.indices, both.indices[:, :2])


def test_a_nearly_symmetric_image_is_not_its_own_second_neighbour() -> None:
    reference = images(50)
    symmetric = (reference[:1] + reference[:1].flip(-1)) / 2
    reference[:1] = symmetric + 1e-4 * images(1, seed=4)
    found = nearest(symmetric, reference, flip=True)
    assert found.distances[0, 0] < 1e-2 < 1 < found.distances[0, 1]


def test_views_with_one_id_are_one_image() -> None:
    base = images(60)
    views = torch.cat([base + 1e-3 * images(60, seed=s) for s in range(20)])  # more views than candidates
    found = nearest(base, [(views, torch.arange(60).repeat(20))])
    expected = direct(base, views).view(60, 20, 60).amin(1).sort(1)
    assert torch.equal(found.indices, expected.indices[:, :2])
    assert torch.allclose(found.distances, expected.values[:, :2], rtol=1e-5)


def test_identical_images_count_as_one() -> None:
    reference = images(100)
    doubled = torch.cat([reference, reference[:30], reference[7:8].repeat(40, 1, 1, 1)])
    index = ReferenceIndex.build(doubled)
    assert (index.distinct, index.duplicates) == (100, 70)
    queries = reference + 1e-3 * images(100, seed=1)
    once, again = nearest(queries, reference), nearest(queries, index)
    assert torch.equal(once.indices, again.indices)
    assert torch.allclose(once.distances, again.distances, rtol=1e-6)


def test_zero_and_minus_zero_are_one_image() -> None:
    reference = torch.zeros(3, 1, 2, 2)
    reference[1] = -0.0
    reference[2] = 1
    assert ReferenceIndex.build(reference).distinct == 2


def test_an_image_and_its_mirror_image_are_one_where_flips_are_on() -> None:
    reference = images(10)
    doubled = torch.cat([reference, reference.flip(-1)])
    assert ReferenceIndex.build(doubled).distinct == 20
    index = ReferenceIndex.build(doubled, flip=True)
    assert index.distinct == 10
    assert nearest(reference[3:4], index).distances[0, 1] > 1


def test_images_that_share_a_view_are_one() -> None:
    base = images(4)
    stream = [(base[[0, 1]], torch.tensor([0, 0])), (base[[1, 2]], torch.tensor([1, 1])), (base[3:], torch.tensor([2]))]
    index = ReferenceIndex.build(stream)
    assert (index.distinct, index.duplicates) == (2, 1)
    assert nearest(base[:1], index).indices[0, 1] == 2


def test_near_duplicates_stay_apart() -> None:
    reference = images(200)
    reference[1] = reference[0] + 1e-4
    found = nearest(reference[:1], reference)
    assert found.indices.tolist() == [[0, 1]]
    assert float(found.distances[0, 1]) == pytest.approx(1e-4 * math.sqrt(192), rel=2e-3)


def test_a_crowd_that_products_cannot_tell_apart_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    search = neighbors._search
    monkeypatch.setattr(neighbors, "_search", lambda *args: counts.append(args[3]) or search(*args))
    crowd = 1000 + 1e-3 * images(600)  # distances of 0.01 beside norms of 14,000: float32 products are all noise
    crowd = torch.cat([crowd, -crowd[:200]])  # so that no choice of centre helps
    queries = crowd[::50] + 2e-4
    found = nearest(queries, crowd)
    true = direct(queries, crowd)  # with ties, as float32 is coarse here: the ids are checked by their distances
    assert torch.allclose(found.distances, true.sort(1).values[:, :2], rtol=1e-6)
    assert torch.allclose(true.gather(1, found.indices), found.distances, rtol=1e-6)
    assert (found.indices[:, 0] != found.indices[:, 1]).all()
    assert counts[0] == 8
    assert counts[-1] > 8
    counts.clear()
    nearest(images(20, seed=1), images(600))
    assert counts == [8]


def test_more_candidates_change_nothing() -> None:
    reference, queries = images(300), images(20, seed=1)
    results = [nearest(queries, reference, k=3, candidates=c) for c in (1, 8, 300, 1000)]
    assert all(torch.equal(r.indices, results[0].indices) for r in results)
    assert all(torch.equal(r.distances, results[0].distances) for r in results)


def test_integer_and_half_precision_images() -> None:
    raw = (torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    found = nearest(raw[:5], raw)
    assert torch.allclose(found.distances, direct(raw[:5], raw).sort(1).values[:, :2], rtol=1e-6)
    half = images(100).bfloat16()
    assert torch.allclose(nearest(half[:5], half).distances, direct(half[:5], half).sort(1).values[:, :2], rtol=1e-6)


def test_queries_that_are_not_finite_are_marked_and_harm_no_other() -> None:
    reference, queries = images(100), images(6, seed=1)
    clean = nearest(queries, reference)
    queries[1, 0, 0, 0] = math.nan
    queries[3, 0, 0, 0] = math.inf
    queries[4] = 1e30
    found = nearest(queries, reference)
    bad = torch.tensor([1, 3, 4])
    assert found.distances[bad].isnan().all()
    assert (found.indices[bad] == -1).all()
    good = torch.tensor([0, 2, 5])
    assert torch.equal(found.distances[good], clean.distances[good])


def test_a_diverged_sample_needs_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    search = neighbors._search
    monkeypatch.setattr(neighbors, "_search", lambda *args: counts.append(args[3]) or search(*args))
    found = nearest(torch.full((1, 3, 8, 8), 1e12), images(600))
    assert found.distances.isfinite().all()
    assert counts == [8]


def test_reduced_precision_outside_is_ignored_and_restored() -> None:
    reference, queries = images(400) + 2, images(20, seed=1) + 2
    before = torch.get_float32_matmul_precision()
    expected = nearest(queries, reference)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = nearest(queries, reference)
            assert (queries[0, 0] @ queries[0, 0]).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.distances, expected.distances)


def test_no_queries() -> None:
    assert nearest(images(0), images(5)).distances.shape == (0, 2)


def test_images_by_id() -> None:
    reference = images(10)
    index = ReferenceIndex.build([(reference[:4], torch.tensor([9, 3, 5, 3])), (reference[4:], torch.arange(20, 26))])
    assert torch.equal(index.images(torch.tensor([22, 3, 9])), reference[[6, 1, 0]])
    with pytest.raises(ValueError, match="no reference image has the id 4"):
        index.images(torch.tensor([3, 4]))


def test_a_cached_stream_is_read_once() -> None:
    class Stream:
        reads = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            self.reads += 1
            return iter(images(50).split(20))

    stream = Stream()
    index = ReferenceIndex.build(stream, cache=True)
    cached = nearest(images(5, seed=1), index)
    reads = stream.reads
    nearest(images(5, seed=1), index)
    assert reads == stream.reads == 1
    assert torch.equal(cached.distances, nearest(images(5, seed=1), images(50)).distances)
    assert (index.low, index.high) == (float(images(50).min()), float(images(50).max()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(images(2), images(1).repeat(3, 1, 1, 1)), "k=2 .* 1 <= k <= 1"),
        (lambda: nearest(images(2), images(5), k=0), "k=0"),
        (lambda: nearest(images(2, shape=(1, 8, 8)), images(5)), r"\(1, 8, 8\) do not match .* \(3, 8, 8\)"),
        (lambda: nearest(images(2, shape=(8, 8, 3)), images(5)), r"\(8, 8, 3\) do not match"),
        (lambda: nearest(images(2), images(0)), "holds no images"),
        (lambda: nearest(images(2), iter([images(5)])), "re-iterable"),
        (lambda: nearest(images(2), [images(5), images(5, shape=(3, 4, 4))]), "differ in shape"),
        (lambda: nearest(images(2), [(images(5), torch.arange(4))]), "5 images with 4 ids"),
        (lambda: nearest(images(2), images(5).log()), "reference image 0 is not finite"),
        (lambda: nearest(images(2), ReferenceIndex.build(images(5)), flip=True), "without flips"),
    ],
)
def test_bad_input_gets_one_line(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_stream_that_changes_is_noticed() -> None:
    source = [images(5), images(6, seed=1)]
    index = ReferenceIndex.build(source)
    source.pop()
    with pytest.raises(ValueError, match="had 11 images when indexed and has 5 now"):
        nearest(images(1, seed=2), index)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("flip", [False, True])
def test_a_gpu_gives_the_answers_of_the_cpu(flip: bool) -> None:
    reference, queries = images(9000), images(200, seed=1)
    queries[:50] = reference[:50] + 1e-4
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        found = nearest(queries, ReferenceIndex.build(reference, device="cuda", flip=flip))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"
    expected = nearest(queries, reference, flip=flip)
    assert torch.equal(found.indices, expected.indices)
    assert torch.allclose(found.distances, expected.distances, rtol=1e-6)
