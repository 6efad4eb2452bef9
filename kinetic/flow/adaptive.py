"""The adaptive methods: torchdiffeq's `odeint`, whose steps depend on the whole batch."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint

from kinetic.flow.measures import Evaluation
from kinetic.flow.motion import IntegrationError, Motion

ADAPTIVE = ("dopri5", "dopri8", "bosh3")
Parts = tuple[Tensor, ...]  # x [B, ...], then what each rate has accrued, [B]


class AdaptiveField:
    """The right-hand side for an adaptive solver, which may reject steps, and reuses the last evaluation of a kept one.

    torchdiffeq calls it with (t, state) and tells it of steps; `at_start` is what a step that is tried starts from.
    """

    def __init__(self, motion: Motion, *, direction: float) -> None:
        self.motion, self.direction = motion, direction  # 1 forwards in time, -1 backwards
        self.starts: list[float] = []  # of the accepted steps
        self.last: Evaluation | None = None
        self.at_start: Evaluation | None = None
        self.accepted = False
        self.settled = dict(motion.states)  # of the measures, as of the last accepted step

    def __call__(self, t: Tensor, state: Parts) -> Parts:
        """Evaluate the motion at `t`, a time in the dtype of the state."""
        t = t.clamp(0, 1)
        now = self.last = self.motion.at(float(t), state[0], gain=float(self.motion.kts.gain(t)), slack=0.0)
        self.at_start = self.at_start or now
        accrued = self.motion.accrued(now)
        return now.drift, *(() if accrued is None else accrued)

    def callback_step(self, t0: Tensor, state: Parts, dt: Tensor) -> None:
        """A step is tried."""
        if self.accepted:
            self.at_start, self.accepted = self.last, False
        self.motion.states = dict(self.settled)

    def callback_accept_step(self, t0: Tensor, state: Parts, dt: Tensor) -> None:
        """A step is kept."""
        start = self.at_start
        assert start is not None  # the solver has evaluated the field before its first step
        self.starts.append(float(t0))
        now = Evaluation(t=self.starts[-1], x=state[0], v=start.v, gain=start.gain, parts=start.parts)
        self.motion.tell(now, self.direction * float(dt))
        self.settled, self.accepted = dict(self.motion.states), True


def follow(
    motion: Motion, x0: Tensor, marks: list[float], *, method: str, rtol: float, atol: float, max_steps: int
) -> tuple[list[Parts], list[float]]:
    """Follow `motion` from `x0` [B, ...]: the states at each of `marks`, and where the accepted steps start."""
    field = AdaptiveField(motion, direction=1.0 if marks[-1] > marks[0] else -1.0)
    time = partial(torch.tensor, dtype=_time_dtype(x0.device), device=x0.device)
    y0 = (x0, *(x0.new_zeros(x0.shape[0]) for _ in motion.rates))
    options = _options(motion, marks, time) | {"max_num_steps": max_steps, "dtype": _time_dtype(x0.device)}
    try:
        states = odeint(field, y0, time(marks), method=method, options=options, rtol=rtol, atol=atol)
    except AssertionError as error:
        reached = field.starts[-1] if field.starts else marks[0]
        reason = str(error).split(":")[0]
        remedy = "use a fixed method, or a larger rtol, atol or max_steps"
        raise IntegrationError(f"{method} stopped near t = {reached:.4g} ({reason}): {remedy}") from error
    return [tuple(part[i] for part in states) for i in range(len(marks))], field.starts


def _time_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _options(motion: Motion, marks: list[float], time: Any) -> dict[str, Any]:
    """Stop at every mark, where a method would otherwise step past, and start anew where the motion jumps."""
    jumps = [mark for mark in marks[1:-1] if mark in motion.jumps]
    stops = {"norm": motion_norm, "step_t": time([mark for mark in marks[1:] if mark not in jumps])}
    return stops | {"jump_t": time(jumps)} if jumps else stops


def motion_norm(state: Parts) -> Tensor:
    """Root mean square of x alone: the error norm, so that what is measured does not choose the steps."""
    return state[0].square().mean().sqrt()
