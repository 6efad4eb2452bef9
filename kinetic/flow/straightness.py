"""How straight the way of a sample is, and the least energy that any way from its start to its end takes."""

from typing import Any

from torch import Tensor

from kinetic.flow.energy import ENERGY_UNIT
from kinetic.flow.measures import Arrival, Evaluation, Measure, Rate, power, unknown
from kinetic.tensors import squared_norm


class Straightness(Rate):
    """Distance from start to end over the length of the path, ‖x(1) - x(0)‖ / ∫ η‖v‖ dt, in (0, 1]; 1 is a line.

    Under noise the length is that of the drift alone, and the measure may exceed 1.
    """

    name, unit = "straightness", ""

    def rate(self, now: Evaluation) -> Tensor:
        """Return the speed η‖v‖."""
        return now.gain * (2 * now.power).sqrt() if now.pull is None else (2 * now.spent).sqrt()

    def step(self, state: Any, now: Evaluation, dt: float) -> Tensor:
        """Remember where the sample started."""
        return now.x if state is None else state

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return the distance over the length."""
        return squared_norm(end.x - state).sqrt() / end.integrals[self.name]


class TransportEnergy(Measure):
    """Energy ½‖x(1) - x(0)‖² of the straight line from start to end at constant speed; no motion takes less."""

    name, unit = "transport_energy", ENERGY_UNIT

    def step(self, state: Any, now: Evaluation, dt: float) -> Tensor:
        """Remember where the sample started."""
        return now.x if state is None else state

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return half the squared distance."""
        return unknown(end) if state is None else power(end.x - state)
