"""Moments merged from parts, and the Fréchet distance against closed forms and torchmetrics."""

import math

import pytest
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.metrics.moments import Moments, frechet_distance, moments


def draw(count: int, size: int = 5, seed: int = 0) -> Tensor:
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(99))
    return 3 + torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) @ mix


def exact(mean: Tensor, covariance: Tensor) -> Moments:
    """Moments that are given, of as many images as make the covariance unbiased."""
    return Moments(11, mean.double(), covariance.double() * 10)


def close(a: Moments, b: Moments) -> None:
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(a.covariance, b.covariance, rtol=1e-12, atol=1e-12)


def test_moments_are_those_of_torch() -> None:
    x = draw(50)
    found = moments(x)
    torch.testing.assert_close(found.mean, x.double().mean(0))
    torch.testing.assert_close(found.covariance, torch.cov(x.double().T))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_parts_in_any_order_make_the_whole(size: int) -> None:
    x = draw(50)
    close(moments(x.split(size)), moments(x))
    close(moments(reversed(x.split(size))), moments(x))


def test_ranks_of_different_sizes_are_merged_exactly() -> None:
    x = draw(50) + torch.arange(50)[:, None]  # every part has a mean of its own
    ranks = [moments(x[:3]), moments(x[3:40]), moments(x[40:])]
    close(ranks[0].merged(ranks[1]).merged(ranks[2]), moments(x))
    close(ranks[0].merged(ranks[1].merged(ranks[2])), moments(x))
    close(Moments.of(x[:0]).merged(moments(x)), moments(x))


def test_a_large_mean_leaves_the_covariance_as_it_is() -> None:
    x = draw(60).double()
    torch.testing.assert_close(moments((x + 1e7).split(13)).covariance, moments(x).covariance, rtol=1e-6, atol=1e-6)


def test_weights_count_rows() -> None:
    x, weights = draw(6), torch.tensor([0, 1, 2, 0, 3, 1])
    close(Moments.of(x, weights), moments(x.repeat_interleave(weights, 0)))


def test_shifted_gaussians() -> None:
    shift, cov = torch.tensor([1.0, -2.0, 0.5]), torch.cov(draw(40, 3).T)
    assert frechet_distance(exact(shift * 0, cov), exact(shift, cov)) == pytest.approx(5.25, rel=1e-12)


def test_commuting_covariances() -> None:
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).double())[0]
    a, b = torch.tensor([4.0, 1.0, 9.0, 0.0]).double(), torch.tensor([1.0, 1.0, 4.0, 2.0]).double()
    mean = torch.zeros(4)
    found = frechet_distance(exact(mean, turn * a @ turn.T), exact(mean, turn * b @ turn.T))
    assert found == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)


def test_covariances_that_do_not_commute() -> None:
    # tr (A B)^½ of two 2 × 2 matrices is √(tr AB + 2 √det AB)
    a, b = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 4.0]]).double()
    root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(torch.linalg.det(a @ b))))
    found = frechet_distance(exact(torch.zeros(2), a), exact(torch.zeros(2), b))
    assert found == pytest.approx(5 + 5 - 2 * root, rel=1e-12)


def test_fewer_images_than_features() -> None:
    few, other = moments(draw(4, 30)), moments(draw(5, 30, seed=1))
    assert few.factor.shape == (30, 3)
    assert abs(frechet_distance(few, few)) < 1e-9 * float(few.covariance.trace())
    assert frechet_distance(few, other) == pytest.approx(frechet_distance(other, few), rel=1e-12)
    flat = moments(torch.ones(4, 30))  # no spread at all
    assert frechet_distance(flat, flat) == 0
    assert frechet_distance(flat, few) == pytest.approx(
        float((few.mean - 1).square().sum() + few.covariance.trace()), rel=1e-12
    )


def test_agrees_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = moments(draw(200, 16)), moments(draw(150, 16, seed=1) * 1.3)
    reference = float(fid._compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert frechet_distance(a, b) == pytest.approx(reference, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments([]), "no features"),
        (lambda: moments(torch.zeros(3)), r"features \[N, F\], got"),
        (lambda: frechet_distance(moments(draw(1)), moments(draw(9))), "at least 2 images, got 1"),
        (lambda: frechet_distance(moments(draw(9)), moments(draw(9, 4))), "of 5 and of 4 numbers"),
        (lambda: moments([draw(9), draw(9, 4)]), "of 5 and of 4 numbers"),
        (lambda: frechet_distance(moments(draw(9) / 0), moments(draw(9))), "not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(call, message: str) -> None:
    with pytest.raises(KineticError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
