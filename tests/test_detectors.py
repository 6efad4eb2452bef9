"""Signs of copying without training data, against exact answers: one point, Gaussian data, other paths, any batch."""

import math

import pytest
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.paths import path
from kinetic.flow.sampling import Sampler, draw
from kinetic.memorization.detectors import Response, Spread, common_noise, posterior, renoise
from kinetic.tensors import seeded_noise

MU, S, D = 0.4, 0.6, 12


class Gaussian:
    """The optimal field of N(μ, s²I) on the linear path."""

    num_classes, sample_shape = None, (D,)

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        t = t.view(-1, 1)
        variance = (1 - t) ** 2 + (t * S) ** 2
        return MU + (t * S**2 - (1 - t)) / variance * (x - t * MU)


def test_common_noises_are_orthogonal_of_norm_root_d_and_the_same_for_any_count() -> None:
    noise = common_noise((3, 2, 2), 12).flatten(1).double()
    torch.testing.assert_close(noise @ noise.T, 12 * torch.eye(12, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(common_noise((3, 2, 2), 5), common_noise((3, 2, 2), 12)[:5])
    many = common_noise((4,), 10)
    assert many.shape == (10, 4)
    assert torch.unique(many.round(decimals=4), dim=0).shape[0] == 10
    with torch.random.fork_rng():
        torch.manual_seed(7)
        assert torch.equal(common_noise((4,), 10), many)


@pytest.mark.parametrize("t", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("count", [2, 8])
def test_spread_of_gaussian_data_is_exact_for_any_number_of_noises(t: float, count: int) -> None:
    net, x = Gaussian(), seeded_noise(range(5), (D,))
    found = posterior(net, x, t=t, count=count)
    exact = D * t**2 * S**4 * (1 - t) ** 2 / ((1 - t) ** 2 + t**2 * S**2) ** 2
    torch.testing.assert_close(found.spread, torch.full((5,), exact), rtol=1e-4, atol=1e-6)
    assert net.calls == count
    gain = t * S**2 / ((1 - t) ** 2 + t**2 * S**2)
    hats = [MU + gain * (t * x + (1 - t) * e - t * MU) for e in common_noise((D,), count)]
    error = torch.stack([(hat - x).square().sum(1) for hat in hats]).mean(0)
    torch.testing.assert_close(found.error, error, rtol=1e-4, atol=1e-5)


def test_one_training_point_leaves_no_spread_and_two_do_between_them() -> None:
    one = torch.tensor([[3.0, -2.0]])
    found = posterior(EmpiricalVelocity(one), torch.tensor([[3.1, -2.0], [0.0, 0.0]]), t=0.7)
    assert found.spread.max() < 1e-9
    torch.testing.assert_close(found.error, torch.tensor([0.01, 13.0]), rtol=1e-3, atol=1e-5)
    two = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    on, between = posterior(EmpiricalVelocity(two), torch.tensor([[2.0, 0.0], [0.0, 0.0]]), t=0.8).spread
    assert on < 1e-6
    assert between > 1


@pytest.mark.parametrize("name", ["gvp", "vp"])
def test_other_paths_guess_the_data_too(name: str) -> None:
    """The velocity of a path whose data is one point guesses that point from everywhere."""
    point, on = torch.tensor([0.5, -1.0, 2.0]), path(name)

    def net(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return on.convert(point.expand_as(x), x, t, given="x1", to="velocity")

    found = posterior(Field(net, shape=(3,), path=on), seeded_noise(range(4), (3,)), t=0.6)
    assert found.spread.max() < 1e-8
    torch.testing.assert_close(
        found.error, (seeded_noise(range(4), (3,)) - point).square().sum(1), rtol=1e-4, atol=1e-4
    )


def test_each_sample_is_judged_alone_whatever_its_batch() -> None:
    net, x = EmpiricalVelocity(seeded_noise(range(50, 60), (6,))), seeded_noise(range(7), (6,))
    whole = posterior(net, x)
    torch.testing.assert_close(posterior(net, x[3:4]).spread, whole.spread[3:4], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(posterior(net, x.flip(0)).error.flip(0), whole.error, rtol=1e-4, atol=1e-6)


def test_as_measures_they_are_columns_of_a_draw() -> None:
    net = Gaussian()
    drawn = draw(net, range(3), sampler=Sampler(steps=10), measures=(Spread(count=4), Response()))
    torch.testing.assert_close(drawn.spread, posterior(net, drawn.x, count=4).spread)
    torch.testing.assert_close(drawn.response, renoise(net, drawn.x, range(3), sampler=Sampler(steps=10)))
    assert [(m.name, m.sign) for m in drawn.measures] == [("spread", -1), ("response", -1)]
    early = draw(net, range(3), sampler=Sampler(steps=10, end=0.9), measures=(Spread(),))
    assert early.spread.isnan().all()  # an unfinished sample is nothing to ask about


@pytest.mark.parametrize("wrong", [{"count": 1}, {"t": 0.0}, {"t": 1.0}, {"t": math.nan}])
def test_settings_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(KineticError, match="must"):
        posterior(Gaussian(), torch.zeros(2, D), **wrong)
