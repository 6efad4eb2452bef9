"""How to integrate, and the loop over a fixed grid: times on the host, steps of torchdiffeq, measures told once a step.

The one file that uses torchdiffeq's internals: its solver classes, their `_step_func`, and that a step does nothing
with a state but add it and scale it by numbers. `tests/test_solvers.py` holds it to that, pyproject bounds the version.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchdiffeq._impl import fixed_grid

from kinetic.flow.measures import Evaluation
from kinetic.flow.motion import Motion
from kinetic.flow.stochastic import Drive

# The multistep Adams methods are left out: they assume equal steps and start with RK4.
FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # evaluations of the network a step
AVERAGING = ("euler", "midpoint", "heun2")  # of order 1 and 2, which a gain that holds for a step leaves them

Noise = Callable[[int, float, float], Tensor]  # (step, t, dt) -> what is added to the state after the step, [B, ...]
StepHook = Callable[[int, float, Tensor], None]  # (steps taken, t, state [B, ...])


class State:
    """A batch and what it has accrued so far, as one value that can be added and scaled."""

    __slots__ = ("sums", "x")

    def __init__(self, x: Tensor, sums: Tensor | None) -> None:
        self.x, self.sums = x, sums  # [B, ...] and [rates, B]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the state."""
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.x.device

    def __add__(self, other: "State") -> "State":
        sums = None if self.sums is None or other.sums is None else self.sums + other.sums
        return State(self.x + other.x, sums)

    def onto(self, other: "State") -> "State":
        """Add to `other` in the memory of this one, which nobody else holds."""
        sums = None if self.sums is None or other.sums is None else self.sums.add_(other.sums)
        return State(self.x.add_(other.x), sums)

    def __sub__(self, other: "State") -> "State":
        return self + -1.0 * other

    def __mul__(self, factor: float) -> "State":
        return State(factor * self.x, None if self.sums is None else factor * self.sums)

    __rmul__ = __mul__


class RightHandSide:
    """What a step evaluates; it remembers the first evaluation of each step.

    Under noise the evaluations after the first see the noise of the step, which makes heun2 the stochastic Heun method.
    With `average` a step has one gain, the mean of η over it.
    """

    def __init__(self, motion: Motion, drive: Drive | None = None, *, average: bool = False) -> None:
        self.motion, self.drive, self.average = motion, drive, average
        self.first: Evaluation | None = None
        self.kick: Tensor | None = None

    def begin(self, step: int, t: float, t_next: float) -> None:
        """Begin a step, choose its gain, and draw its noise."""
        self.first = None
        if self.average:
            self.motion.held = self.motion.kts.mean_gain(t, t_next)
        if self.drive is not None:
            self.motion.half, self.kick = self.drive.squares[step] / 2, self.drive.kick(step, t_next - t)

    def __call__(self, t: float, state: State, perturb: Any = None) -> State:
        """Return the rate of change of the state at time `t`."""
        now = self.motion.at(t, state.x if self.first is None or self.kick is None else state.x + self.kick)
        self.first = self.first or now
        return State(now.drift, self.motion.accrued(now))


class HostLoop:
    """In the place of torchdiffeq's loop, which would ask the device at every step whether an output time has come."""

    func: RightHandSide
    y0: State
    _step_func: Callable[..., tuple[State, State]]

    def integrate(
        self, times: Sequence[float], *, tau: float, noise: Noise | None = None, on_step: StepHook | None = None
    ) -> tuple[State, Tensor | None]:
        """Go through `times`, rising or falling: the last state, and what had accrued at τ (None: not met)."""
        state, at_tau = self.y0, None
        for i, (t, t_next) in enumerate(pairwise(times)):
            dt = t_next - t
            self.func.begin(i, t, t_next)
            change, _ = self._step_func(self.func, t, dt, t_next, state)
            after = change.onto(state)  # the change is a product with dt, made for this step
            if self.func.kick is not None:
                after.x += self.func.kick
            if noise is not None:
                after.x += noise(i, t, dt)
            if min(t, t_next) < tau <= max(t, t_next):
                at_tau = _interpolated(state.sums, after.sums, (tau - t) / dt)
            self.func.motion.tell(self.func.first, dt)  # type: ignore[arg-type]
            state = after
            if on_step is not None:
                on_step(i + 1, t_next, state.x)
        return state, at_tau


def _interpolated(before: Tensor | None, after: Tensor | None, share: float) -> Tensor | None:
    if before is None or after is None or share == 1:
        return after
    return before + share * (after - before)


_CLASSES = {
    "euler": fixed_grid.Euler,
    "midpoint": fixed_grid.Midpoint,
    "heun2": fixed_grid.Heun2,
    "heun3": fixed_grid.Heun3,
    "rk4": fixed_grid.RK4,
}
SOLVERS: dict[str, Any] = {name: type(name, (HostLoop, cls), {}) for name, cls in _CLASSES.items()}


def walk(
    motion: Motion,
    x0: Tensor,
    times: Sequence[float],
    *,
    method: str,
    tau: float,
    drive: Drive | None = None,
    noise: Noise | None = None,
    on_step: StepHook | None = None,
    average_gain: bool = False,
) -> tuple[State, Tensor | None]:
    """Follow `motion` from `x0` [B, ...] through `times` by a fixed `method`, driven by noise or not."""
    zeros = x0.new_zeros(len(motion.rates), x0.shape[0]) if motion.rates else None
    func = RightHandSide(motion, drive, average=average_gain)
    solver = SOLVERS[method](func=func, y0=State(x0, zeros), atol=0.0)
    return solver.integrate(times, tau=tau, noise=noise, on_step=on_step)
