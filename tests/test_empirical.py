"""The closed-form field of a training set against a brute-force sum, and what following it does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinetic.flow import empirical
from kinetic.flow.empirical import LAST, EmpiricalVelocity
from kinetic.flow.integration import METHODS, integrate
from kinetic.flow.posterior import PosteriorMean
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS

TIMES = [0.0, 0.1, 0.3, 0.5, 0.8, 0.9, 0.99, 0.999, 0.9999]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def brute(images: Tensor, x: Tensor, t: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The field as written, in float64, by differences."""
    points, state, time = images.flatten(1).double(), x.flatten(1).double(), t.double()
    distances = (state[:, None] - time[:, None, None] * points).square().sum(2)
    logits = -distances / (2 * (1 - time[:, None]) ** 2)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    shift = torch.einsum("bn,bnd->bd", logits.softmax(1), points - state[:, None])
    return (shift / (1 - time)[:, None]).view(x.shape)


def assert_agrees(value: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Relative, for each row."""
    error = (value.double() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < tolerance


def independent(n: int, d: int) -> Tensor:
    return (torch.randn(n, d) * 0.5).clamp(-1, 1)


def alike(n: int, d: int) -> Tensor:
    """Variants of one image, from all but equal to unrelated, so that many compete at every t."""
    return independent(1, d) + 0.5 * torch.randn(n, d) * torch.logspace(-5, 0, n)[:, None]


def states(images: Tensor, t: float, n: int = 12) -> Tensor:
    """Points on the way to an image, and halfway between two, where both have a share."""
    first, second = images[torch.randint(len(images), (2, n))]
    mixed = torch.where(torch.arange(n)[:, None] % 2 == 0, first, (first + second) / 2)
    return t * mixed + (1 - t) * torch.randn_like(mixed)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("make", [independent, alike])
@pytest.mark.parametrize(("n", "d"), [(40, 3072), (150, 64), (300, 2)])
def test_agrees_with_a_brute_force_sum(make, n: int, d: int, t: float) -> None:
    images = make(n, d)
    x, time = states(images, t), torch.full((12,), t)
    expected = brute(images, x, time)
    for chunk in (1, 7, n):
        assert_agrees(EmpiricalVelocity(images, chunk=chunk)(x, time), expected)


def test_agrees_where_almost_equal_images_compete_at_the_very_end() -> None:
    # In float32 a matrix product would tell these logits apart to 1e4 only.
    t = torch.full((6,), 0.9999)
    image = independent(1, 3072)
    images = torch.cat([image, image + 1e-4 * torch.randn(5, 3072) / 3072**0.5, independent(30, 3072)])
    x = t[0] * image + (1 - t[0]) * torch.randn(6, 3072) / 3072**0.5
    weights = torch.cdist(x.double(), t[0].double() * images.double()).square().div(-2e-8).softmax(1)
    assert weights.amax(1).min() < 0.9
    for chunk in (1, 7, 36):
        assert_agrees(EmpiricalVelocity(images, chunk=chunk)(x, t), brute(images, x, t))


def test_each_row_has_its_own_time() -> None:
    images, time = (
        independent(
            60,
            3,
        ).reshape(60, 3, 1),
        torch.tensor(TIMES),
    )
    x = torch.randn(len(TIMES), 3, 1)
    for chunk in (7, 60):
        assert_agrees(EmpiricalVelocity(images, chunk=chunk)(x, time), brute(images, x, time))
    scalar = EmpiricalVelocity(images)(x, torch.tensor(0.5))
    torch.testing.assert_close(scalar, EmpiricalVelocity(images)(x, torch.full((len(x),), 0.5)))


@pytest.mark.parametrize("t", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("make", [independent, alike])
def test_what_a_gpu_does_without_waiting_is_the_same_field(monkeypatch, make, t: float) -> None:
    """Kills: a pair that is counted twice or not at all, a full set of slots that nobody notices."""
    passes: list[bool | None] = []

    def begun(*args, waits: bool = False, **options) -> PosteriorMean:
        passes.append(waits)
        return PosteriorMean(*args, waits=waits, **options)

    monkeypatch.setattr(empirical, "PosteriorMean", begun)
    images, time = make(90, 64), torch.full((12,), t)
    x = states(images, t)
    labels, wanted = torch.arange(90) % 3, torch.arange(12) % 4
    allowed = (labels == wanted[:, None]) | (wanted == 3)[:, None]
    for chunk in (1, 7, 90):
        field = EmpiricalVelocity(images, labels, chunk=chunk)
        assert_agrees(field(x, time, wanted), brute(images, x, time, allowed))
        assert_agrees(field(x, time), brute(images, x, time))
    assert (True in passes) == (make is alike and t > 0.5)  # more compete there than there are slots
    assert False in passes


def test_two_points_have_the_exact_posterior() -> None:
    # For a and -a the posterior mean is a tanh(t x·a / (1-t)²).
    a = torch.tensor([0.6, -0.3])
    x, t = torch.randn(5, 2), torch.rand(5) * 0.9
    mean = a * torch.tanh(t * (x @ a) / (1 - t) ** 2)[:, None]
    torch.testing.assert_close(EmpiricalVelocity(torch.stack([a, -a]))(x, t), (mean - x) / (1 - t)[:, None])


def test_one_point_is_a_straight_line() -> None:
    image, x0 = torch.rand(1, 3, 4, 4), torch.randn(4, 3, 4, 4)
    result = integrate(EmpiricalVelocity(image), x0, steps=8)
    torch.testing.assert_close(result.x, image.expand(4, 3, 4, 4))
    torch.testing.assert_close(result.energy, 0.5 * (image - x0).square().sum((1, 2, 3)))


def test_finite_to_the_end_in_many_dimensions() -> None:
    images = independent(100, 3072)
    field = EmpiricalVelocity(images)
    for t in (0.5, 0.99, LAST, 1.0):
        far = field(torch.randn(8, 3072), torch.full((8,), t))
        near = field(images[:8], torch.full((8,), t))
        assert far.dtype == torch.float32
        assert far.isfinite().all()
        assert near.isfinite().all()
    assert torch.equal(field(images[:8], torch.ones(8)), field(images[:8], torch.full((8,), LAST)))


@pytest.mark.parametrize("name", ["off", "landing"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_follows_it_to_the_end(method: str, name: str) -> None:
    field, x0 = EmpiricalVelocity(independent(20, 12)), torch.randn(6, 12)
    for steps in (1, 2, 7, 100):
        result = integrate(field, x0, method=method, steps=steps, kts=KTS.preset(name))
        assert result.x.isfinite().all()
        assert result.energy.isfinite().all()


def test_labels_restrict_each_row_to_its_class() -> None:
    images, labels = alike(60, 5), torch.arange(60) % 3
    wanted = torch.tensor([0, 1, 2, 3, 1, 3])  # 3 is the null label: all images
    for t in (0.2, 0.9, 0.999):
        x, time = states(images, t, 6), torch.full((6,), t)
        allowed = (labels == wanted[:, None]) | (wanted == 3)[:, None]
        for chunk in (1, 7, 60):  # most chunks of one image hold none of a row's class
            field = EmpiricalVelocity(images, labels, chunk=chunk)
            assert_agrees(field(x, time, wanted), brute(images, x, time, allowed))
        assert torch.equal(field(x, time), field(x, time, torch.full((6,), 3)))
    assert field.num_classes == 3


def shards(images: np.ndarray) -> Iterator[np.ndarray]:
    yield from np.split(images, [1, 14, 15, 40])


def test_arrays_memory_maps_and_shards_are_the_same_field(tmp_path: Path) -> None:
    images, x, t = independent(50, 6), torch.randn(4, 6), torch.tensor([0.1, 0.5, 0.9, 0.99])
    expected = brute(images, x, t)
    mapped = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.float32, (50, 6))
    mapped[:] = images.numpy()
    mapped.flush()
    read_only = np.load(tmp_path / "images.npy", mmap_mode="r")
    for source in (images, images.numpy(), read_only, lambda: shards(images.numpy()), lambda: images.split(9)):
        for chunk in (4, 100):
            assert_agrees(EmpiricalVelocity(source, chunk=chunk)(x, t), expected)


def test_bytes_are_pixels() -> None:
    pixels = torch.randint(0, 256, (9, 3, 2, 2), dtype=torch.uint8)
    x, t = torch.randn(2, 3, 2, 2), torch.tensor([0.3, 0.9])
    assert_agrees(EmpiricalVelocity(pixels)(x, t), brute(pixels.double() / 127.5 - 1, x, t))


def test_double_precision_and_bf16_around_it() -> None:
    images, t = independent(50, 6), torch.tensor([0.1, 0.5, 0.9, 0.99])
    x = torch.randn(4, 6)
    wide = EmpiricalVelocity(images)(x.double(), t.double())
    assert wide.dtype == torch.float64
    assert_agrees(wide, brute(images, x, t.double()), 1e-11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_agrees(EmpiricalVelocity(images)(x, t), brute(images, x, t))


def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    field, x = EmpiricalVelocity(independent(50, 6)), torch.randn(3, 6)
    for t in (0.1, 0.95):
        good = field(x, torch.full((3,), t))
        for value in (torch.nan, torch.inf):
            spoilt = x.clone()
            spoilt[1, 2] = value
            bad = field(spoilt, torch.full((3,), t))
            torch.testing.assert_close(bad[[0, 2]], good[[0, 2]])
            assert not bad[1].isfinite().all()


def test_following_it_copies_the_training_set() -> None:
    images = independent(200, 64)
    drawn = draw(EmpiricalVelocity(images), range(256), shape=(64,), sampler=Sampler(steps=100)).x
    nearest = (drawn[:, None].double() - images.double()).norm(dim=2).topk(2, largest=False).values
    assert (nearest[:, 0] < nearest[:, 1] / 3).double().mean() > 0.99


def test_it_drops_in_for_a_conditional_network() -> None:
    images, labels = independent(40, 8), torch.arange(40) % 4
    field = EmpiricalVelocity(images, labels)
    wanted = torch.tensor([0, 1, 2, 3, 3])
    drawn = draw(field, range(5), shape=field.sample_shape, labels=wanted, sampler=Sampler(steps=50)).x
    nearest = torch.cdist(drawn, images).argmin(1)
    assert labels[nearest].tolist() == wanted.tolist()
    guided = draw(field, range(5), shape=(8,), labels=wanted, sampler=Sampler(steps=5, guidance=1.5))
    assert guided.x.isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: EmpiricalVelocity(x, chunk=0), "chunk must be at least 1, got 0"),
        (lambda x: EmpiricalVelocity(x[:0]), "at least one image"),
        (lambda x: EmpiricalVelocity(x * torch.tensor([1, 1, torch.nan])[:, None]), "image 2 .* not finite"),
        (lambda x: EmpiricalVelocity(x, num_classes=2), "num_classes 2 needs the labels"),
        (lambda x: EmpiricalVelocity(x, torch.zeros(2).long()), "one for each of 3 images, got 2"),
        (lambda x: EmpiricalVelocity(x, torch.tensor([0, 1, 2]), num_classes=2), "must lie in 0 to 1"),
        (lambda x: EmpiricalVelocity(x)(torch.ones(1, 4), torch.ones(1)), r"shape \(4,\), the training set \(2,\)"),
        (lambda x: EmpiricalVelocity(x)(x, torch.ones(3), torch.zeros(3).long()), "the training set has none"),
        (
            lambda x: EmpiricalVelocity(x, torch.tensor([0, 0, 2]))(x, torch.ones(3), torch.tensor([0, 1, 2])),
            "class 1 has no image",
        ),
        (
            lambda x: EmpiricalVelocity(x, torch.tensor([0, 1, 1]))(x, torch.ones(3), torch.tensor([0, 3, 1])),
            "labels must lie in 0 to 2",
        ),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(torch.ones(3, 2))


def test_a_precision_set_for_cuda_alone_is_respected_and_restored() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        velocity = EmpiricalVelocity(torch.eye(4))(torch.zeros(1, 4), torch.tensor(0.5))
        assert velocity.isfinite().all()
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
