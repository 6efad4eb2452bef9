"""Follow a velocity field from noise (t = 0) to data (t = 1) and measure every path on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.adaptive import ADAPTIVE, follow
from kinetic.flow.energy import STANDARD, Path
from kinetic.flow.field import Velocity
from kinetic.flow.grids import as_times, time_grid
from kinetic.flow.measures import Arrival, Measure, Recording, checked
from kinetic.flow.motion import Motion
from kinetic.flow.paths import LINEAR
from kinetic.flow.shaping import KTS
from kinetic.flow.solvers import AVERAGING, FIXED, Noise, StepHook, walk
from kinetic.flow.stochastic import Driven
from kinetic.flow.trajectory import Trajectory

METHODS = (*FIXED, *ADAPTIVE)
OFF = KTS.preset("off")


@dataclass(frozen=True)
class Solver:
    """How to integrate.

    Attributes:
        method: euler, midpoint, heun2, heun3 or rk4 with a fixed grid; dopri5, dopri8 or bosh3 with steps of their own.
        steps: intervals of a fixed grid (a list of times in `grid` decides them itself).
        grid: uniform, cosine, or a list of times.
        rtol: relative tolerance of the adaptive methods, above 0.
        atol: absolute tolerance of the adaptive methods, above 0.
    """

    method: str = "euler"
    steps: int = 100
    grid: str | tuple[float, ...] = "uniform"
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise KineticError(f"unknown method {self.method!r}; choose from {', '.join(METHODS)}")
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not value > 0:
                raise KineticError(f"{name} must be above 0, got {value}")
        if isinstance(self.grid, str):
            time_grid(self.grid, self.steps)  # refuses bad settings now
        else:
            times = as_times(self.grid)
            object.__setattr__(self, "grid", times)
            object.__setattr__(self, "steps", len(times) - 1)

    def times(self, start: float = 0.0, end: float = 1.0) -> tuple[float, ...]:
        """The times from `start` to `end` that a fixed method visits."""
        return time_grid(self.grid, self.steps, start=start, end=end)


@torch.no_grad()
def integrate(
    velocity: Velocity,
    x0: Tensor,
    *,
    solver: Solver | None = None,
    method: str | None = None,
    steps: int | None = None,
    grid: str | Sequence[float] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    kts: KTS = OFF,
    average_gain: bool = False,
    start: float = 0.0,
    end: float = 1.0,
    measures: Sequence[Measure] = STANDARD,
    keep_path: int = 0,
    driven: Driven | None = None,
    noise: Noise | None = None,
    on_step: StepHook | None = None,
    max_steps: int = 100_000,
) -> Trajectory:
    """Follow `dx/dt = η(t) v(x, t)` from `x0` [B, ...] at t = `start` to t = `end`, without gradients.

    `velocity(x, t)` gets `t` as [B] on the device and in the dtype of the state, always inside [0, 1]. The state is
    float32, or float64 if `x0` is. `solver` says how to integrate (see `Solver`); method, steps, grid, rtol and atol
    override it. With a fixed method each row depends on its own start alone and the host never waits for the device;
    an adaptive one follows its tolerances over the whole batch, at most `max_steps` to either side of τ. η is taken at
    the times that the solver evaluates, or with `average_gain` (for euler, midpoint and heun2) is its mean over each
    step; energies go by the gain that was applied. With `end` before `start` the way is gone backwards.

    `measures` are told of every step, and their rates are integrated with the order of the method. Energies split at
    `kts.tau`. On a fixed grid that does not hold τ, the integrals at τ are interpolated linearly inside the step, which
    for Euler is exact. `keep_path` keeps the states of the first so many samples. `driven`, for the methods euler and
    heun2, makes it a stochastic equation (see `kinetic.flow.stochastic`). On a fixed grid, `noise(i, t, dt)` is added
    to the state after step i, and `on_step(i, t, x)` is called with the state that i steps have led to.
    Raises KineticError for settings that cannot work, and IntegrationError where an adaptive method gives up.
    """
    given = {"method": method, "steps": steps, "grid": grid, "rtol": rtol, "atol": atol}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    solver = replace(_plain(solver), **chosen)
    check_average(solver.method, average_gain)
    times = solver.times(start, end)
    asked = (*measures, Path(keep_path)) if keep_path else tuple(measures)
    checked(asked)
    motion = Motion(velocity, kts, asked, path=LINEAR if driven is None else driven.path)
    drive = None if driven is None else driven.along(times, method=solver.method)
    x0 = x0 if x0.dtype == torch.float64 else x0.float()
    if solver.method in FIXED:
        how: dict[str, Any] = {"drive": drive, "noise": noise, "on_step": on_step, "average_gain": average_gain}
        last, at_tau = walk(motion, x0, times, method=solver.method, tau=kts.tau, **how)
        x, sums = last.x, last.sums
    else:
        _refuse_for_adaptive(solver.method, noise, on_step)
        x, sums, at_tau, times = _adaptive(motion, x0, solver, start, end, max_steps)
    forwards = end > start
    integrals = _named(motion, sums if forwards or sums is None else -sums)
    early = integrals if max(start, end) <= kts.tau else _named(motion, _early(sums, at_tau, forwards=forwards))
    return _trajectory(motion, Arrival(end, x, integrals, early), times)


def check_average(method: str, average_gain: bool) -> None:
    """Raise KineticError where the gain is to be averaged over the steps of a method that cannot."""
    if average_gain and method not in AVERAGING:
        takes = f"{method} takes the gain at every evaluation"
        raise KineticError(f"average_gain is for the methods {', '.join(AVERAGING)}; {takes}, leave it out")


def _plain(solver: Solver | None) -> Solver:
    """The settings of a solver, without those of a sampler that is one."""
    if solver is None:
        return Solver()
    return Solver(solver.method, solver.steps, solver.grid, solver.rtol, solver.atol)


def _adaptive(
    motion: Motion, x0: Tensor, solver: Solver, start: float, end: float, max_steps: int
) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[float, ...]]:
    """Follow by an adaptive method: the last state, what has accrued at the end and at τ, and the times of steps."""
    tau = motion.kts.tau
    inner = {t for t in (tau, *motion.jumps) if min(start, end) < t < max(start, end)}
    marks = [start, *sorted(inner, reverse=end < start), end]
    settings = {"method": solver.method, "rtol": solver.rtol, "atol": solver.atol, "max_steps": max_steps}
    states, starts = follow(motion, x0, marks, **settings)  # type: ignore[arg-type]
    sums = [torch.stack(state[1:]) if motion.rates else None for state in states]
    x = states[-1][0].clone()  # a copy, so that the states at the other marks can be freed
    return x, sums[-1], sums[marks.index(tau)] if tau in inner else None, (*starts, end)


def _refuse_for_adaptive(method: str, noise: Noise | None, on_step: StepHook | None) -> None:
    if noise is not None or on_step is not None:
        what = "noise" if noise is not None else "on_step"
        raise KineticError(f"{what} needs a fixed grid, and {method} chooses its steps; use one of {', '.join(FIXED)}")


def _early(sums: Tensor | None, at_tau: Tensor | None, *, forwards: bool) -> Tensor | None:
    """What has accrued at times before τ, [rates, B], counted forwards; τ lies before the later end."""
    if sums is None or at_tau is None:
        return None if sums is None else torch.zeros_like(sums)
    return at_tau if forwards else at_tau - sums


def _named(motion: Motion, sums: Tensor | None) -> dict[str, Tensor]:
    """Integrals by the names of their rates."""
    return {} if sums is None else {rate.name: row for rate, row in zip(motion.rates, sums, strict=True)}


def _trajectory(motion: Motion, end: Arrival, times: Sequence[float]) -> Trajectory:
    found: dict[str, Any] = {m.name: m.result(motion.states[m.name], end) for m in motion.measures}
    recorded = {m.name: found[m.name] for m in motion.measures if isinstance(m, Recording)}
    columns = tuple(m for m in motion.measures if not isinstance(m, Recording))
    path = recorded.pop("path", None)
    all_times = torch.tensor(times, dtype=torch.float64)
    return Trajectory(
        x=end.x,
        nfe=motion.nfe,
        times=all_times[:-1],
        columns={m.name: found[m.name] for m in columns},
        recordings=recorded,
        measures=columns,
        path=path,
        path_times=None if path is None else all_times,
    )
