"""A set of images read in chunks: what may be one, what a pass yields, what is refused and what stays in memory."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSet

IMAGES = torch.arange(11 * 6, dtype=torch.float32).view(11, 1, 2, 3)


class Stream:
    """A re-iterable of shards that counts its passes."""

    def __init__(self, *items: object) -> None:
        self.items, self.passes = list(items), 0

    def __iter__(self):
        self.passes += 1
        return iter(self.items)


def shards(images: Tensor = IMAGES) -> tuple[Tensor, ...]:
    return images.split([1, 6, 0, 4])


def through(images: ImageSet, size: int = 3, **options: object) -> tuple[Tensor, list[slice], Tensor]:
    rows, parts, ids = zip(*images.chunks(size, **options), strict=True)
    return torch.cat(parts), list(rows), torch.cat(ids)


def memory_map(folder: Path, images: np.ndarray) -> np.ndarray:
    np.save(folder / "images.npy", images)
    return np.load(folder / "images.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "source",
    [
        lambda at: IMAGES,
        lambda at: IMAGES.numpy(),
        lambda at: memory_map(at, IMAGES.numpy()),
        lambda at: [torch.empty(0), *shards()],
        lambda at: [part.numpy() for part in shards()],
        lambda at: shards,
        lambda at: lambda: (part for part in shards()),
        lambda at: ImageSet.of(IMAGES),
    ],
)
def test_every_source_yields_the_same_chunks_in_every_pass(tmp_path: Path, source: Callable) -> None:
    images = ImageSet.of(source(tmp_path))
    for _ in range(2):
        found, rows, ids = through(images)
        assert torch.equal(found, IMAGES.flatten(1))
        assert torch.equal(ids, torch.arange(11))
        assert [n for part in rows for n in range(part.start, part.stop)] == list(range(11))
        assert all(0 < part.stop - part.start <= 3 for part in rows)
    assert images.shape == (1, 2, 3)
    assert torch.equal(images.whole(), IMAGES)


def test_ids_and_names_stay_with_their_images() -> None:
    first, second = IMAGES.split([5, 6])
    images = ImageSet.of([(first, torch.arange(5) * 10, [f"n{i}" for i in range(5)]), [second.numpy(), range(6)]])
    assert images.names == {}
    assert through(images, 4)[2].tolist() == [0, 10, 20, 30, 40, 0, 1, 2, 3, 4, 5]
    assert images.names == {0: "n0", 10: "n1", 20: "n2", 30: "n3", 40: "n4"}


def test_bytes_stay_bytes_unless_they_are_scaled() -> None:
    pixels = torch.tensor([[0, 51], [127, 255]], dtype=torch.uint8)
    for images in (ImageSet.of(pixels), ImageSet.of(pixels).kept("cpu")):
        for _ in range(2):
            assert torch.equal(through(images)[0], pixels)
            assert torch.equal(through(images, scaled=True)[0], pixels.float() / 127.5 - 1)
    assert torch.equal(through(ImageSet.of(IMAGES), scaled=True)[0], IMAGES.flatten(1))


def test_chunks_come_in_the_dtype_that_is_asked_for() -> None:
    assert through(ImageSet.of(IMAGES), dtype=torch.float64)[0].dtype == torch.float64
    assert through(ImageSet.of(IMAGES.bfloat16()))[0].dtype == torch.bfloat16


def test_memory_is_shared_but_chunks_of_what_is_read_only_are_copies(tmp_path: Path) -> None:
    for source in (IMAGES, IMAGES.numpy()):
        (_, first, _), *_ = ImageSet.of(source).chunks(4)
        assert first.data_ptr() == IMAGES.data_ptr()
    mapped = memory_map(tmp_path, IMAGES.numpy())
    _, part, _ = next(ImageSet.of(mapped).chunks(4))
    assert part.untyped_storage().nbytes() == 4 * 24  # one chunk, not the set
    assert part.data_ptr() != mapped.ctypes.data


@pytest.mark.parametrize(("budget", "passes"), [(11 * 24, 1), (11 * 24 - 1, 3), (0, 3)])
def test_a_set_is_kept_if_it_fits_the_budget(budget: int, passes: int) -> None:
    stream = Stream(*[(part, torch.arange(len(part)), ["x"] * len(part)) for part in shards()])
    images = ImageSet.of(stream).kept("cpu", budget)
    assert not images.resident
    runs = [through(images) for _ in range(3)]
    assert all(torch.equal(found, IMAGES.flatten(1)) and torch.equal(ids, runs[0][2]) for found, _, ids in runs)
    assert (stream.passes, images.resident) == (passes, passes == 1)
    assert set(images.names) == set(range(6))


def test_a_pass_that_is_broken_off_keeps_nothing() -> None:
    images = ImageSet.of(list(shards())).kept("cpu")
    next(images.chunks(1))
    assert not images.resident
    assert torch.equal(through(images)[0], IMAGES.flatten(1))


@pytest.mark.parametrize(
    ("change", "now"),
    [(lambda items: items.pop(), "has 7 now"), (lambda items: items.append(IMAGES), "has more now")],
)
def test_a_set_that_changes_is_noticed(change: Callable, now: str) -> None:
    stream = Stream(*shards())
    images = ImageSet.of(stream, "the album")
    through(images)
    change(stream.items)
    with pytest.raises(KineticError, match=f"the album changed: it had 11 images when indexed and {now}"):
        through(images)


def test_a_function_without_a_second_pass_is_noticed() -> None:
    once = iter(shards())
    images = ImageSet.of(lambda: once)
    through(images)
    with pytest.raises(KineticError, match="has 0 now"):
        through(images)


def test_a_set_of_no_images_is_refused_in_chunks_but_may_be_had_whole() -> None:
    for source in (IMAGES[:0], [], [IMAGES[:0]], lambda: iter(())):
        assert len(ImageSet.of(source).whole()) == 0
        with pytest.raises(KineticError, match="the album holds no images"):
            through(ImageSet.of(source, "the album"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (iter(shards()), "the album must be re-iterable, got a one-shot tuple_iterator; pass a list or a function"),
        (7, "the album must be a tensor, an array, a re-iterable or a function, got a int"),
        ([{"x": IMAGES}], "the album must yield tensors or arrays of images, got a dict"),
        ([IMAGES, IMAGES[..., :2]], r"images of the album differ in shape: \(1, 2, 3\) and \(1, 2, 2\)"),
        ([(IMAGES, torch.arange(4))], "the album yields 11 images with 4 ids"),
    ],
)
def test_what_is_no_set_of_images_is_named(source: object, message: str) -> None:
    with pytest.raises(KineticError, match=message):
        through(ImageSet.of(source, "the album"))


def test_the_shape_is_not_made_up() -> None:
    with pytest.raises(KineticError, match="was not read yet"):
        _ = ImageSet.of(shards).shape


def test_a_set_can_be_sent_to_another_process() -> None:
    assert torch.equal(pickle.loads(pickle.dumps(ImageSet.of(IMAGES))).whole(), IMAGES)
