"""Kinetic path energy and what belongs to it (Li et al., 2026, arXiv 2602.07928).

The solver integrates the energies as further components of its state, so measuring costs no evaluation of the network
and an energy has the order of the solver: Euler gives exactly the left Riemann sum.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.measures import Arrival, Evaluation, Measure, Rate, Recording, unknown

ENERGY_UNIT = "x²"  # squares of whatever unit the samples have, summed over their dimensions


class Energy(Rate):
    """Energy of the motion that was executed, ½ ∫ η²‖v‖² dt; under noise of its drift, ½ ∫ ‖η v + (g²/2) s‖² dt."""

    name, unit = "energy", ENERGY_UNIT

    def rate(self, now: Evaluation) -> Tensor:
        """Return ½ η²‖v‖², or that of the drift."""
        return now.spent


class FieldEnergy(Rate):
    """Energy of the field along the same path, ½ ∫ ‖v‖² dt, whose mean over samples no noise changes."""

    name, unit = "field_energy", ENERGY_UNIT

    def rate(self, now: Evaluation) -> Tensor:
        """Return ½‖v‖²."""
        return now.power


class Early(Measure):
    """The part of the energy before τ."""

    name, unit, needs = "early", ENERGY_UNIT, ("energy",)

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return what was spent before τ."""
        return end.early["energy"]


class Late(Measure):
    """The part of the energy from τ on."""

    name, unit, needs = "late", ENERGY_UNIT, ("energy",)

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return what was not spent before τ."""
        return end.integrals["energy"] - end.early["energy"]


class LateFraction(Measure):
    """The late part of the energy as a fraction of it, in [0, 1]; NaN for a path that does not move."""

    name, unit, needs = "late_fraction", "", ("energy",)

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return late / energy."""
        return (end.integrals["energy"] - end.early["energy"]) / end.integrals["energy"]


class PerDimEnergy(Measure):
    """Energy divided by the number of dimensions, to compare samples of different sizes."""

    name, unit, sign, needs = "per_dim_energy", ENERGY_UNIT, None, ("energy",)

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return energy / D."""
        return end.integrals["energy"] / max(end.x.shape[1:].numel(), 1)


class FinalPower(Measure):
    """Power of the field, ½‖v‖², at the start of the last step."""

    name, unit = "final_power", ENERGY_UNIT

    def step(self, state: Any, now: Evaluation, dt: float) -> Tensor:
        """Remember the power of the latest step."""
        return now.power

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return it."""
        return unknown(end) if state is None else state


@dataclass(frozen=True)
class Drift(Measure):
    """Distance from x + (1 - t) v, where the field first points at a time from `at` on, to where the sample ends.

    Small for copies: a field that has settled on one training image early points straight at it.
    """

    at: float = 0.8
    name, unit, sign = "drift", "x", -1

    def __post_init__(self) -> None:
        if not 0 <= self.at < 1:
            raise KineticError(f"the drift is measured from a time in [0, 1), got {self.at}")

    def look(self, state: Any, now: Evaluation) -> Any:
        """Note where the first evaluation from `at` on points."""
        if state is not None or now.t < self.at - 1e-9:  # a time that was rounded counts
            return state
        return now.x + (1 - torch.tensor(now.t, dtype=now.x.dtype, device="cpu")) * now.v

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return the distance, NaN if there was no such evaluation or the flow was stopped before t = 1."""
        return unknown(end) if state is None or end.t < 1 else (end.x - state).flatten(1).norm(dim=1)


class PowerProfile(Recording):
    """Power of the field, ½‖v‖², at the start of each step, [steps, B]."""

    name, unit = "power", ENERGY_UNIT

    def step(self, state: Any, now: Evaluation, dt: float) -> list[Tensor]:
        """Note the power."""
        return _appended(state, now.power)

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Stack the powers."""
        return torch.stack(state) if state else end.x.new_empty((0, end.x.shape[0]))


class Gains(Recording):
    """The gain η that each step was taken with, [steps] on the CPU."""

    name = "gain"

    def step(self, state: Any, now: Evaluation, dt: float) -> list[float]:
        """Note the gain."""
        return [*(state or ()), now.gain]

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return the gains."""
        return torch.tensor(state or (), dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class Path(Recording):
    """The states of the first `count` samples at the start of each step and at the end, [steps + 1, count, ...]."""

    count: int
    name, unit = "path", "x"

    def step(self, state: Any, now: Evaluation, dt: float) -> list[Tensor]:
        """Keep a copy of the state."""
        return _appended(state, now.x[: self.count].clone())

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Stack the states."""
        return torch.stack([*(state or ()), end.x[: self.count]])


def _appended(items: list[Tensor] | None, item: Tensor) -> list[Tensor]:
    items = [] if items is None else items
    items.append(item)
    return items


# What is measured unless something else is asked for: the columns of every table of samples, and the power profile.
STANDARD: tuple[Measure, ...] = (
    Energy(),
    FieldEnergy(),
    Early(),
    Late(),
    LateFraction(),
    PerDimEnergy(),
    FinalPower(),
    Drift(),
    PowerProfile(),
)
