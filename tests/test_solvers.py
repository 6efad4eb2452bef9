"""The loop over a fixed grid against torchdiffeq's own, and what it lets one do besides."""

import itertools

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint
from torchdiffeq._impl import fixed_grid

from kinetic.flow.energy import STANDARD, Energy, FieldEnergy
from kinetic.flow.integration import integrate
from kinetic.flow.measures import Arrival, Evaluation, Measure, Rate
from kinetic.flow.motion import Motion
from kinetic.flow.shaping import KTS
from kinetic.flow.solvers import FIXED, SOLVERS, RightHandSide, State

F64 = torch.float64
ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=F64).to(dtype)


def field(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) + t.reshape(-1, *[1] * (x.ndim - 1)).cos() * x.flip(-1)


@pytest.mark.parametrize("steps", [1, 7, 61])
@pytest.mark.parametrize("method", FIXED)
def test_unshaped_samples_are_those_of_torchdiffeq_bit_for_bit(method: str, steps: int) -> None:
    x0, grid = noise(5, 3, 4), torch.linspace(0, 1, steps + 1, dtype=F64)
    grid = torch.tensor([i / steps for i in range(steps + 1)], dtype=F64)
    wanted = odeint(lambda t, x: field(x, t.expand(5)), x0, grid, method=method)[-1]
    assert torch.equal(integrate(field, x0, method=method, steps=steps).x, wanted)


@pytest.mark.parametrize("method", FIXED)
def test_what_is_used_of_torchdiffeq(method: str) -> None:
    """Its solver classes take steps of numbers and of anything that can be added and scaled by numbers."""
    solver = SOLVERS[method]
    base = {"heun2": "Heun2", "heun3": "Heun3", "rk4": "RK4"}.get(method, method.capitalize())
    assert issubclass(solver, getattr(fixed_grid, base))
    motion = Motion(field, KTS(), [Energy()])
    made = solver(func=RightHandSide(motion), y0=State(noise(2, 3), torch.zeros(1, 2)), atol=0.0)
    change, first = made._step_func(made.func, 0.25, 0.5, 0.75, made.y0)
    assert isinstance(change, State)
    assert isinstance(first, State)
    assert motion.nfe == FIXED[method]
    assert change.sums is not None
    assert change.sums.shape == (1, 2)


@pytest.mark.parametrize("method", FIXED)
def test_states_that_were_handed_out_do_not_change_afterwards(method: str) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, x.clone()))
        return field(x, t)

    x0 = noise(3, 2)
    found = integrate(watched, x0, method=method, steps=4, keep_path=3)
    assert all(torch.equal(x, copy) for x, copy in seen)
    assert torch.equal(x0, noise(3, 2))
    assert found.path is not None
    assert torch.equal(found.path[0], x0)


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("kts", [KTS(tau=0.5), KTS(0.2, 0.02, tau=0.5)], ids=["off", "shaped"])
def test_the_way_back_has_the_order_of_the_method_and_the_same_energies(method: str, kts: KTS) -> None:
    x0 = 0.3 * noise(4, 3, dtype=F64)
    there = integrate(field, x0, method="rk4", steps=400, kts=kts)
    errors, energies, early = [], [], []
    for steps in (20, 40):
        back = integrate(field, there.x, method=method, steps=steps, kts=kts, start=1.0, end=0.0)
        errors.append((back.x - x0).abs().sum())
        energies.append((back.energy - there.energy).abs().sum())
        early.append((back.early - there.early).abs().sum())
        assert (back.energy > 0).all()
    for found in (errors, energies, early):
        assert torch.log2(found[0] / found[1]) > ORDER[method] - 0.4


def test_adaptive_methods_go_back_too() -> None:
    x0 = 0.3 * noise(4, 3, dtype=F64)
    options = {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9, "kts": KTS(0.1, 0.03, launch="constant", tau=0.4)}
    there = integrate(field, x0, **options)
    back = integrate(field, there.x, start=1.0, end=0.0, **options)
    torch.testing.assert_close(back.x, x0, rtol=0, atol=1e-6)
    for name in ("energy", "field_energy", "early", "late"):
        torch.testing.assert_close(back.columns[name], there.columns[name], rtol=1e-6, atol=1e-7)
    assert (back.times.diff() < 0).all()


@pytest.mark.parametrize(("start", "end"), [(0.7, 1.0), (0.0, 0.3), (0.9, 0.7), (0.3, 0.1)])
def test_parts_of_the_way_split_at_tau(start: float, end: float) -> None:
    found = integrate(field, noise(3, 2), steps=8, start=start, end=end, kts=KTS(tau=0.6))
    whole, nothing = (found.late, found.early) if min(start, end) >= 0.6 else (found.early, found.late)
    torch.testing.assert_close(whole, found.energy)
    assert nothing.abs().max() < 1e-6
    assert found.drift.isnan().all() == (end < 1)


def test_noise_is_added_after_each_step_and_is_told_where() -> None:
    asked: list[tuple[int, float, float]] = []

    def source(i: int, t: float, dt: float) -> Tensor:
        asked.append((i, t, dt))
        return torch.full((2, 3), 10.0**i)

    found = integrate(lambda x, t: 0 * x, torch.zeros(2, 3), steps=3, noise=source, keep_path=2)
    assert found.path is not None
    assert found.path[:, 0, 0].tolist() == [0, 1, 11, 111]
    assert [(i, round(t, 9), round(dt, 9)) for i, t, dt in asked] == [
        (i, round(i / 3, 9), round(1 / 3, 9)) for i in range(3)
    ]


def test_no_noise_is_the_ode_bit_for_bit() -> None:
    x0 = noise(2, 3)
    silent = integrate(field, x0, steps=9, noise=lambda i, t, dt: torch.zeros(2, 3))
    plain = integrate(field, x0, steps=9)
    assert torch.equal(silent.x, plain.x)
    assert torch.equal(silent.energy, plain.energy)


def test_the_hook_sees_every_state() -> None:
    seen: list[tuple[int, float, Tensor]] = []
    found = integrate(field, noise(2, 3), steps=4, keep_path=2, on_step=lambda i, t, x: seen.append((i, t, x.clone())))
    assert found.path is not None
    assert [(i, t) for i, t, _ in seen] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert all(torch.equal(x, state) for (_, _, x), state in zip(seen, found.path[1:], strict=True))


class Steps(Measure):
    """What a measure is told."""

    name = "steps"

    def __init__(self) -> None:
        self.told: list[tuple[float, float, Tensor, Tensor, float]] = []

    def step(self, state, now: Evaluation, dt: float):
        self.told.append((now.t, dt, now.x, now.v, now.gain))
        return (state or 0) + 1

    def result(self, state, end: Arrival) -> Tensor:
        return torch.full(end.x.shape[:1], float(state))


@pytest.mark.parametrize("method", [*FIXED, "dopri5", "bosh3"])
def test_a_measure_is_told_of_every_accepted_step_once(method: str) -> None:
    steps, kts = Steps(), KTS(0.2, 0.02)
    found = integrate(field, noise(4, 3, dtype=F64), method=method, steps=6, kts=kts, measures=[steps], keep_path=4)
    assert found.path is not None
    assert found.steps.tolist() == [len(found.times)] * 4
    assert [t for t, *_ in steps.told] == pytest.approx(found.times.tolist())
    for (t, dt, x, v, gain), state, (here, there) in zip(
        steps.told, found.path, itertools.pairwise(found.path_times.tolist()), strict=False
    ):
        assert dt == pytest.approx(there - here, abs=1e-9)
        assert torch.equal(x, state)
        torch.testing.assert_close(v, field(x, torch.full((4,), t, dtype=F64)), rtol=1e-6, atol=1e-6)
        assert gain == pytest.approx(kts.gain(t), abs=1e-6)


class Length(Rate):
    """Length of the path."""

    name, unit = "length", "x"

    def rate(self, now: Evaluation) -> Tensor:
        return now.gain * now.v.flatten(1).norm(dim=1)


@pytest.mark.parametrize("method", FIXED)
def test_a_rate_of_ones_own_has_the_order_of_the_method(method: str) -> None:
    x0 = 0.5 + 0.2 * noise(3, 2, dtype=F64).abs()

    def smooth(x: Tensor, t: Tensor) -> Tensor:
        return x + 1

    truth = integrate(smooth, x0, method="rk4", steps=300, measures=[Length()]).length
    errors = [
        (integrate(smooth, x0, method=method, steps=n, measures=[Length()]).length - truth).abs().sum()
        for n in (10, 20)
    ]
    assert torch.log2(errors[0] / errors[1]) > ORDER[method] - 0.35


def test_measures_are_checked_and_leave_the_samples_alone() -> None:
    x0 = noise(3, 2)
    with pytest.raises(ValueError, match="two measures are called 'energy'"):
        integrate(field, x0, measures=[Energy(), Energy()])
    with pytest.raises(ValueError, match="the measure 'late' needs 'energy'"):
        integrate(field, x0, measures=[m for m in STANDARD if m.name == "late"])
    few = integrate(field, x0, steps=5, measures=[FieldEnergy()])
    assert list(few.columns) == ["field_energy"]
    assert not few.recordings
    assert torch.equal(few.x, integrate(field, x0, steps=5, measures=(*STANDARD, Length())).x)
    with pytest.raises(AttributeError, match="'energy' was not measured; there are field_energy"):
        _ = few.energy
