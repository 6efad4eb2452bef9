"""Energies against the closed forms that they must equal."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kinetic.flow.grids import time_grid
from kinetic.flow.integration import METHODS, integrate
from kinetic.flow.measures import power
from kinetic.flow.shaping import KTS
from kinetic.flow.solvers import FIXED
from kinetic.flow.trajectory import Trajectory

F64 = torch.float64
GOLDEN = {0.1: (0.42646018, 0.29555556), 0.25: (0.33490046, 0.27390371), 0.5: (0.23230092, 0.21412474)}
GOLDEN[1.0] = (1 - math.pi / 4, 0.10860314)
ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


def noise(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


class Gaussian:
    """The exact field for data ~ N(mu, s²I)."""

    def __init__(self, s: float, mu: Tensor | float = 0.0) -> None:
        self.s, self.mu = s, mu

    def log_rate(self, t: Tensor) -> Tensor:
        return (t * self.s**2 - (1 - t)) / ((1 - t) ** 2 + (t * self.s) ** 2)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        return self.mu + self.log_rate(t) * (x - t * self.mu)


def exact(velocity, x0: Tensor, **options) -> Trajectory:
    return integrate(velocity, x0, method="dopri5", rtol=1e-8, atol=1e-8, **options)


def assert_relative(value: Tensor, expected: Tensor | float, tolerance: float) -> None:
    expected = torch.as_tensor(expected, dtype=value.dtype).expand_as(value)
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)


def test_power_is_half_the_sum_over_dimensions_in_float32_or_wider() -> None:
    v = torch.full((2, 3, 256, 256), 2.0, dtype=torch.float16)
    assert power(v).tolist() == [393216.0, 393216.0]  # beyond the range of float16
    assert power(v).dtype == torch.float32
    assert power(v[:, :1, :1, 0].double()).dtype == F64


def test_constant_field() -> None:
    c = noise(4, 3)
    result = exact(lambda x, t: c, noise(4, 3))
    assert_relative(result.energy, 0.5 * c.square().sum(1), 1e-6)


def test_linear_field() -> None:
    a, x0 = 0.7, noise(4, 2, 3)
    result = exact(lambda x, t: a * x, x0)
    assert_relative(result.energy, a / 4 * x0.square().sum((1, 2)) * math.expm1(2 * a), 1e-6)


@pytest.mark.parametrize("s", GOLDEN)
def test_gaussian_data_with_a_mean(s: float) -> None:
    z, mu = noise(5, 6), noise(6)
    result = exact(Gaussian(s, mu), z)
    expected = mu @ mu + 2 * (s - 1) * z @ mu + (1 + s * s - math.pi * s / 2) * z.square().sum(1)
    assert_relative(result.energy, 0.5 * expected, 1e-6)
    torch.testing.assert_close(result.x, mu + s * z, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("s", GOLDEN)
def test_golden_numbers_with_the_early_part(s: float) -> None:
    z = noise(4, 8)
    result = exact(Gaussian(s), z, kts=KTS.preset("off", tau=0.6))
    total, early = GOLDEN[s]
    norm = z.square().sum(1)
    assert_relative(result.energy / norm, total, 1e-6)
    assert_relative(result.early / norm, early, 1e-6)
    assert_relative(result.late / norm, total - early, 2e-6)
    assert_relative(result.late_fraction, (total - early) / total, 2e-6)


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("shaping", ["off", "balanced"])
def test_every_fixed_method_shows_its_order_for_x_and_energy(method: str, shaping: str) -> None:
    # At tau = 0.5, a grid point, so that the kink of the gain and the early part fall between steps.
    z, field = noise(3, 4), Gaussian(0.5, 0.3)
    kts = KTS.preset(shaping, tau=0.5)
    truth = integrate(field, z, method="dopri5", rtol=1e-12, atol=1e-12, kts=kts)
    coarse, fine = (integrate(field, z, method=method, steps=n, kts=kts) for n in (40, 80))
    for name in ("x", "energy", "early", "field_energy"):
        errors = [(getattr(run, name) - getattr(truth, name)).abs().sum() for run in (coarse, fine)]
        assert math.log2(errors[0] / errors[1]) > ORDER[method] - 0.35, name


@pytest.mark.parametrize(("method", "tolerance"), [("euler", 0.02), ("midpoint", 1e-3), ("rk4", 1e-6)])
def test_fixed_methods_reach_the_golden_numbers_to_their_order(method: str, tolerance: float) -> None:
    z = noise(4, 8)
    result = integrate(Gaussian(0.25), z, method=method)
    assert_relative(result.energy / z.square().sum(1), GOLDEN[0.25][0], tolerance)
    assert_relative(result.early / z.square().sum(1), GOLDEN[0.25][1], tolerance)


@pytest.mark.parametrize("kts", [KTS.preset("off"), KTS.preset("balanced"), KTS(0.1, 0.03, launch="constant")])
@pytest.mark.parametrize("grid", ["uniform", "cosine", [0.0, 0.1, 0.35, 0.6, 0.95, 1.0]])
def test_euler_is_the_left_riemann_sum(kts: KTS, grid: str | list[float]) -> None:
    x = x0 = noise(4, 5)
    times = torch.tensor(time_grid(grid, 10), dtype=F64)
    executed = field = early = torch.zeros(4, dtype=F64)
    for t0, t1 in itertools.pairwise(times):
        v, eta = Gaussian(0.5, 1.0)(x, t0.expand(4)), kts.gain(t0)
        executed = executed + (t1 - t0) * power(eta * v)
        early = early + ((t1.clamp(max=0.6) - t0).clamp(min=0)) * power(eta * v)
        field = field + (t1 - t0) * power(v)
        x = x + (t1 - t0) * eta * v
    result = integrate(Gaussian(0.5, 1.0), x0, steps=10, grid=grid, kts=kts)
    for value, expected in ((result.x, x), (result.energy, executed), (result.field_energy, field)):
        assert_relative(value, expected, 1e-13)
    assert_relative(result.early, early, 1e-12)
    assert_relative(result.early + result.late, executed, 1e-13)


def test_power_profile_final_power_and_drift() -> None:
    x0, field = noise(3, 4), Gaussian(0.5, 1.0)
    result = integrate(field, x0, steps=10, keep_path=3)
    assert result.path is not None
    velocities = [field(result.path[i], result.times[i].expand(3)) for i in range(10)]
    assert_relative(result.power, torch.stack([power(v) for v in velocities]), 1e-12)
    assert torch.equal(result.final_power, result.power[-1])
    assert torch.equal(result.times, torch.arange(10, dtype=F64) / 10)
    predicted = result.path[8] + 0.2 * velocities[8]
    assert_relative(result.drift, (result.x - predicted).norm(dim=1), 1e-12)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8"])
def test_profile_of_an_adaptive_method_is_that_of_the_accepted_steps(method: str) -> None:
    x0, field = noise(3, 4), Gaussian(0.1, 1.0)
    kts = KTS(0.3, 0.3, launch="constant", landing="constant")
    result = integrate(field, x0, method=method, kts=kts, keep_path=3, rtol=1e-7, atol=1e-7)
    assert result.path is not None
    assert result.times[0] == 0
    assert (result.times.diff() > 0).all()
    expected = [power(field(x, t.expand(3))) for x, t in zip(result.path[:-1], result.times, strict=True)]
    assert_relative(result.power, torch.stack(expected), 1e-4)
    late = int((result.times >= 0.8).nonzero()[0]) - 1  # the step in which t = 0.8 is first reached
    assert result.drift.isfinite().all()
    assert result.times[late] < 0.8


def random_field(seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator, dtype=F64) for shape in ((4, 16), (16, 3)))
    return lambda x, t: torch.tanh(torch.cat([x, t[:, None]], 1) @ a) @ b


@pytest.mark.parametrize("method", METHODS)
def test_energy_is_at_least_that_of_the_straight_line(method: str) -> None:
    kts = KTS.preset("balanced", alpha=0.5)
    slack = 1 + (1e-12 if method in FIXED else 1e-4)
    for seed in range(20):
        x0 = noise(6, 3) * seed
        result = integrate(random_field(seed), x0, method=method, steps=9, kts=kts)
        assert (result.energy * slack >= 0.5 * (result.x - x0).square().sum(1)).all()


def test_one_training_point_is_a_straight_line() -> None:
    x1, x0 = noise(1, 5), noise(3, 5) * 2
    result = integrate(lambda x, t: (x1 - x) / (1 - t[:, None]), x0, steps=7)
    assert_relative(result.energy, 0.5 * (x1 - x0).square().sum(1), 1e-12)
    assert_relative(result.x, x1.expand(3, 5), 1e-12)


def test_a_path_that_does_not_move_has_no_late_fraction() -> None:
    result = integrate(lambda x, t: 0 * x, noise(2, 3))
    assert result.energy.tolist() == [0, 0]
    assert result.late_fraction.isnan().all()
