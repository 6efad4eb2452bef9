"""The motion that a solver follows: the velocity, evaluated, scaled by the shaping, and counted."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Velocity
from kinetic.flow.measures import Evaluation, Measure, Rate
from kinetic.flow.shaping import KTS


class IntegrationError(KineticError):
    """A solver gave up: too many steps, steps too small, or a state that is not finite."""


class Motion:
    """Evaluates `velocity` for a whole batch under the gain of `kts`; `nfe` counts the evaluations."""

    def __init__(self, velocity: Velocity, kts: KTS, measures: Sequence[Measure]) -> None:
        self.velocity, self.kts = velocity, kts
        self.measures = tuple(measures)
        self.rates = tuple(measure for measure in self.measures if isinstance(measure, Rate))
        self._gain: Callable[[float], float] = (lambda t: 1.0) if kts.is_off else kts.gain
        self.nfe = 0
        self.states: dict[str, Any] = dict.fromkeys((measure.name for measure in self.measures), None)
        # Most measures do one thing alone: no others are asked.
        self._looking = tuple(m for m in self.measures if type(m).look is not Measure.look)
        self._stepping = tuple(m for m in self.measures if type(m).step is not Measure.step)

    def at(self, t: float, x: Tensor, *, gain: float | None = None) -> Evaluation:
        """Evaluate the field at time `t` and state `x` [B, ...]; `gain` is η(t) where it is known already."""
        t = min(max(t, 0.0), 1.0)
        v = self.velocity(x, x.new_full(x.shape[:1], t))
        if v.shape != x.shape:
            raise KineticError(f"the velocity must have the shape of x, {tuple(x.shape)}, got {tuple(v.shape)}")
        self.nfe += 1
        v = v if v.dtype is x.dtype else v.to(x.dtype)
        now = Evaluation(t=t, x=x, v=v, gain=self._gain(t) if gain is None else gain)
        for measure in self._looking:
            self.states[measure.name] = measure.look(self.states[measure.name], now)
        return now

    def accrued(self, now: Evaluation) -> Tensor | None:
        """Return what each rate accrues at `now`, [rates, B]; None where nothing is integrated."""
        if not self.rates:
            return None
        rows = [rate.rate(now) for rate in self.rates]
        return torch.stack([row if row.dtype is now.x.dtype else row.to(now.x.dtype) for row in rows])

    def tell(self, now: Evaluation, dt: float) -> None:
        """Tell every measure of an accepted step."""
        for measure in self._stepping:
            self.states[measure.name] = measure.step(self.states[measure.name], now, dt)


def executed(now: Evaluation) -> Tensor:
    """Return the velocity of the motion, η v, [B, ...]."""
    return now.v if now.gain == 1 else now.gain * now.v
