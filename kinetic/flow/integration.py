"""Integrate a velocity field from noise (t = 0) to data (t = 1) and measure every path on the way.

The only file that imports torchdiffeq, and the only place where its `(t, y)` is turned into `(x, t)`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint

from kinetic.errors import KineticError
from kinetic.flow.energy import State, initial_state, motion_norm, power, split_energies, state_rates
from kinetic.flow.shaping import KTS, Velocity

FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # evaluations of the network a step
ADAPTIVE = ("dopri5", "dopri8", "bosh3")
METHODS = (*FIXED, *ADAPTIVE)  # the multistep Adams methods are left out: they assume equal steps and start with RK4
GRIDS = ("uniform", "cosine")
OFF = KTS.preset("off")


class IntegrationError(KineticError):
    """An adaptive solver gave up: too many steps, steps too small, or a state that is not finite."""


@dataclass(frozen=True)
class Trajectory:
    """Where the samples arrived and what it took: energies [B] in units of ‖x‖², NaN where they were not measured."""

    x: Tensor  # [B, ...] at t = 1
    energy: Tensor  # [B], ½ ∫ η²‖v‖² dt, of the executed motion
    field_energy: Tensor  # [B], ½ ∫ ‖v‖² dt along the same path
    early: Tensor  # [B], the part of `energy` before τ
    late: Tensor  # [B], the part of `energy` after τ
    late_fraction: Tensor  # [B], late / energy
    final_power: Tensor  # [B], ½‖v‖² at the start of the last step
    drift: Tensor  # [B], ‖x(1) - (x + (1-t) v)‖ from the first evaluation at t >= drift_at; NaN if there is none
    power: Tensor  # [steps, B], ½‖v‖² at the start of each step (each accepted step of an adaptive method)
    times: Tensor  # [steps], where those steps start
    nfe: int  # evaluations of the velocity, for the whole batch
    path: Tensor | None = None  # [steps + 1, n, ...], the states of the first n samples, if asked for
    path_times: Tensor | None = None  # [steps + 1]
    response: Tensor | None = None  # [B], distance to where the sample ends after going back to t = 0.7, if asked for


def time_grid(grid: str | Sequence[float] = "uniform", steps: int = 100, *, start: float = 0.0) -> Tensor:
    """Build the times [steps + 1], float64, that a fixed method visits from `start` in [0, 1) to 1.

    `uniform` has equal steps; `cosine`, t = (1 - cos(π i / steps)) / 2, is fine at both ends; a list of times, rising
    from 0 to 1, is taken as it is (and `steps` is ignored). With a later start the grid is squeezed into [start, 1].
    """
    if isinstance(grid, str):
        if grid not in GRIDS:
            raise KineticError(f"unknown grid {grid!r}; choose from {', '.join(GRIDS)}, or give a list of times")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise KineticError(f"steps must be a whole number of at least 1, got {steps}")
        i = torch.arange(steps + 1, dtype=torch.float64)
        times = i / steps if grid == "uniform" else (1 - torch.cos(math.pi * i / steps)) / 2
    else:
        times = torch.as_tensor(grid, dtype=torch.float64).detach().cpu()
        if times.ndim != 1 or len(times) < 2 or times[0] != 0 or times[-1] != 1 or not (times.diff() > 0).all():
            raise KineticError(f"a list of times must rise strictly from 0 to 1, got {_short(times)}")
    if not 0 <= start < 1:
        raise KineticError(f"start must lie in [0, 1), got {start}")
    return torch.lerp(times.new_tensor(start), times.new_tensor(1.0), times) if start else times


def _short(times: Tensor) -> str:
    values = [f"{t:g}" for t in times.flatten()[:4].tolist()]
    return f"[{', '.join(values)}{', ...' if times.numel() > 4 else ''}]"


class _FixedField:
    """The right-hand side that a fixed-grid solver sees; it notes what passes by and calls the velocity once a time."""

    def __init__(self, velocity: Velocity, kts: KTS, *, measure: bool, keep_path: int, drift_at: float) -> None:
        self.velocity, self.kts = velocity, kts
        self.measure, self.keep_path, self.drift_at = measure, keep_path, drift_at
        self.nfe = 0
        self.starting = False
        self.powers: list[Tensor] = []
        self.path: list[Tensor] = []
        self.prediction: Tensor | None = None

    def __call__(self, t: Tensor, state: State) -> State:
        t, x = t.clamp(0, 1), state[0]
        v = self.velocity(x, t.to(x.device, x.dtype).expand(x.shape[0]).contiguous())
        if v.shape != x.shape:
            raise KineticError(f"the velocity must have the shape of x, {tuple(x.shape)}, got {tuple(v.shape)}")
        v = v.to(x.dtype)
        self.nfe += 1
        gain = None if self.kts.is_off else self.kts.gain(t)
        if not self.measure:
            return (v if gain is None else gain * v,)
        field_power = power(v)
        self.note(t, x, v, field_power)
        return state_rates(v, field_power, gain)

    def note(self, t: Tensor, x: Tensor, v: Tensor, field_power: Tensor) -> None:
        """Keep the power at the start of a step, and the first endpoint predicted from `drift_at` on."""
        if self.starting:
            self.powers.append(field_power)
            self.starting = False
        self.predict(t, x, v)

    def predict(self, t: Tensor, x: Tensor, v: Tensor) -> None:
        if self.prediction is None and t >= torch.tensor(self.drift_at, dtype=t.dtype).to(t.device):
            self.prediction = x + (1 - t) * v

    def callback_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        """Called by torchdiffeq at the start of each step."""
        self.starting = True
        self.keep(state)

    def keep(self, state: State) -> None:
        if self.keep_path:
            self.path.append(state[0][: self.keep_path].clone())


class _AdaptiveField(_FixedField):
    """The same for an adaptive solver, which may reject a step, and reuses the last evaluation of one it keeps."""

    def __init__(self, velocity: Velocity, kts: KTS, *, measure: bool, keep_path: int, drift_at: float) -> None:
        super().__init__(velocity, kts, measure=measure, keep_path=keep_path, drift_at=drift_at)
        self.starts: list[Tensor] = []
        self.last: Tensor | None = None  # power at the latest evaluation
        self.at_start: Tensor | None = None  # power at the start of the step that is being tried
        self.settled = False  # whether the prediction comes from an accepted step

    def note(self, t: Tensor, x: Tensor, v: Tensor, field_power: Tensor) -> None:
        self.last = field_power
        if self.at_start is None:
            self.at_start = field_power
        self.predict(t, x, v)

    def callback_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        if self.starting:
            self.at_start, self.starting = self.last, False
        if not self.settled:
            self.prediction = None

    def callback_accept_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        """Called by torchdiffeq for each step that it keeps."""
        self.starts.append(t0)
        if self.at_start is not None:
            self.powers.append(self.at_start)
        self.starting, self.settled = True, self.prediction is not None
        self.keep(state)


@torch.no_grad()
def integrate(
    velocity: Velocity,
    x0: Tensor,
    *,
    method: str = "euler",
    steps: int = 100,
    grid: str | Sequence[float] = "uniform",
    kts: KTS = OFF,
    start: float = 0.0,
    measure: bool = True,
    keep_path: int = 0,
    drift_at: float = 0.8,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 100_000,
) -> Trajectory:
    """Follow `dx/dt = η(t) v(x, t)` from `x0` [B, ...] at t = `start` to t = 1, without gradients.

    `velocity(x, t)` gets `t` as [B] in the dtype of the state, always inside [0, 1]. The state is float32, or float64
    if `x0` is. A fixed method (euler, midpoint, heun2, heun3, rk4) takes `steps` steps on `grid`, and each row depends
    on its own start alone; an adaptive one (dopri5, dopri8, bosh3) follows `rtol` and `atol`
    over the whole batch, at most `max_steps` to either side of τ. η is taken at the times that the solver evaluates.

    Energies split at `kts.tau`. On a fixed grid that does not hold τ, the energy at τ is interpolated linearly inside
    the step, which for Euler is exact. `keep_path` keeps the states of the first so many samples.
    """
    if method not in METHODS:
        raise KineticError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    times = time_grid(grid, steps, start=start)
    adaptive = method in ADAPTIVE
    field_type = _AdaptiveField if adaptive else _FixedField
    field = field_type(velocity, kts, measure=measure, keep_path=keep_path, drift_at=drift_at)
    y0 = initial_state(x0 if x0.dtype == torch.float64 else x0.float(), measure=measure)
    marks = [start, kts.tau, 1.0] if start < kts.tau else [start, 1.0]
    options = (
        _adaptive_options(kts, start, x0.device, max_steps) if adaptive else {"grid_constructor": lambda *_: times}
    )
    states = _solve(field, y0, marks, method=method, options=options, rtol=rtol, atol=atol)
    at_tau, at_end = (tuple(part[i] for part in states) for i in (-2, -1))
    if isinstance(field, _AdaptiveField):
        times = torch.cat([torch.stack(field.starts).double().cpu(), times[-1:]])
    return _trajectory(field, times, at_tau, at_end)


def _solve(field: _FixedField, y0: State, marks: list[float], *, method: str, **settings: Any) -> State:
    """Call torchdiffeq for the states at `marks` alone; its assertions become an error that says what to do."""
    device = y0[0].device
    t = torch.tensor(marks, dtype=_time_dtype(device), device=device)
    try:
        return odeint(field, y0, t, method=method, **settings)
    except AssertionError as error:
        starts = field.starts if isinstance(field, _AdaptiveField) else []
        reached = float(starts[-1]) if starts else marks[0]
        reason = str(error).split(":")[0]
        remedy = "use a fixed method, or a larger rtol, atol or max_steps"
        raise IntegrationError(f"{method} stopped near t = {reached:.4g} ({reason}): {remedy}") from error


def _time_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _adaptive_options(kts: KTS, start: float, device: torch.device, max_steps: int) -> dict[str, Any]:
    """Stop at τ and at 1, where an adaptive method would otherwise step past, and restart where the gain jumps."""
    at_tau = [kts.tau] if start < kts.tau else []
    wide = partial(torch.tensor, dtype=_time_dtype(device), device=device)
    options: dict[str, Any] = {"norm": motion_norm, "dtype": _time_dtype(device), "max_num_steps": max_steps}
    if kts.jumps and at_tau:
        return options | {"step_t": wide([1.0]), "jump_t": wide(at_tau)}
    return options | {"step_t": wide([*at_tau, 1.0])}


def _trajectory(field: _FixedField, times: Tensor, at_tau: State, at_end: State) -> Trajectory:
    x = at_end[0].clone()  # a copy, so that the states at 0 and τ can be freed
    unknown = x.new_full(x.shape[:1], torch.nan)
    profile = torch.stack(field.powers) if field.powers else x.new_empty((0, x.shape[0]))
    drift = unknown if field.prediction is None else (x - field.prediction).flatten(1).norm(dim=1)
    path = torch.stack([*field.path, x[: field.keep_path]]) if field.keep_path else None
    return Trajectory(
        x=x,
        **{name: value.clone() for name, value in vars(split_energies(at_tau, at_end)).items()},
        final_power=profile[-1] if field.powers else unknown,
        drift=drift,
        power=profile,
        times=times[:-1],
        nfe=field.nfe,
        path=path,
        path_times=None if path is None else times,
    )
