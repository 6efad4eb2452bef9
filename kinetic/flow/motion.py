"""The motion that a solver follows: the velocity, evaluated, scaled by the shaping, and counted."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.composition import SLACK, Blend
from kinetic.flow.field import Velocity
from kinetic.flow.measures import Evaluation, Measure, Rate
from kinetic.flow.paths import LINEAR, AffinePath
from kinetic.flow.shaping import KTS


class IntegrationError(KineticError):
    """A solver gave up: too many steps, steps too small, or a state that is not finite."""


class Motion:
    """Evaluates `velocity` for a whole batch under the gain of `kts`; `nfe` counts the networks that were evaluated.

    `half` is g²/2 in a step with noise, and the score is that of `path`. `held` is a gain that holds for a whole step,
    in the place of η at the times that are evaluated; None where there is none.
    """

    def __init__(self, velocity: Velocity, kts: KTS, measures: Sequence[Measure], *, path: AffinePath = LINEAR) -> None:
        self.velocity, self.kts, self.path, self.half = velocity, kts, path, 0.0
        self.measures = tuple(measures)
        self.rates = tuple(measure for measure in self.measures if isinstance(measure, Rate))
        self._gain: Callable[[float], float] = (lambda t: 1.0) if kts.is_off else kts.gain
        self.held: float | None = None
        self.nfe = 0
        self.states: dict[str, Any] = dict.fromkeys((measure.name for measure in self.measures), None)
        # Most measures do one thing alone: no others are asked.
        self._looking = tuple(m for m in self.measures if type(m).look is not Measure.look)
        self._stepping = tuple(m for m in self.measures if type(m).step is not Measure.step)

    @property
    def jumps(self) -> tuple[float, ...]:
        """Times at which the motion is discontinuous."""
        own = self.velocity.jumps if isinstance(self.velocity, Blend) else ()
        return (*own, self.kts.tau) if self.kts.jumps else own

    def at(self, t: float, x: Tensor, *, gain: float | None = None, slack: float = SLACK) -> Evaluation:
        """Evaluate the field at time `t` and state `x` [B, ...]; `gain` is η(t) where it is known already.

        A time at most `slack` below the one at which a composed field changes counts as that.
        """
        t = min(max(t, 0.0), 1.0)
        time = x.new_full(x.shape[:1], t)
        v, parts, calls = self._evaluated(x, time, t, slack)
        if v.shape != x.shape:
            raise KineticError(f"the velocity must have the shape of x, {tuple(x.shape)}, got {tuple(v.shape)}")
        self.nfe += calls
        v = v if v.dtype is x.dtype else v.to(x.dtype)
        pull = self.half * self.path.convert(v, x, time, given="velocity", to="score") if self.half else None
        gain = self.held if gain is None else gain
        gain = self._gain(t) if gain is None else gain

        def again(y: Tensor) -> Tensor:
            return self._evaluated(y, y.new_full(y.shape[:1], t), t, slack)[0]

        now = Evaluation(t=t, x=x, v=v, gain=gain, parts=parts, pull=pull, field=again)
        for measure in self._looking:
            self.states[measure.name] = measure.look(self.states[measure.name], now)
        return now

    def _evaluated(self, x: Tensor, time: Tensor, t: float, slack: float) -> tuple[Tensor, dict[str, Tensor], int]:
        """The velocity, those of its parts, and how many networks it took; `time` [B] is `t` on the device."""
        if isinstance(self.velocity, Blend):
            return self.velocity.at(x, time, t, slack=slack)
        return self.velocity(x, time), {}, 1

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
