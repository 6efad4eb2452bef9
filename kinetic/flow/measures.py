"""What is measured on the way: a number for each sample, told at every step or integrated along with the sample.

A new number is a class with a name, a unit and a sign. It is passed to `integrate` or `draw` as `measures=(*STANDARD,
Mine())`, named in a configuration (`model.samples.measures`) or on the command line (`sample.py --measure`), and is
then a column wherever samples are rows: in a validation's tables, parquet, CSV, the report, and beside the copies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.tensors import squared_norm

Sign = Literal[-1, 0, 1] | None


def power(v: Tensor) -> Tensor:
    """Return ½‖v‖² of each row: [B, ...] -> [B], a sum over dimensions, in float32 or wider."""
    return 0.5 * squared_norm(v)


class Evaluation:
    """The field at one time for a whole batch; the motion there is `gain * v`, and `pull` where there is noise.

    Attributes:
        t: time in [0, 1]; 0 is noise, 1 is data.
        x: states [B, ...].
        v: velocities [B, ...], not yet scaled.
        gain: η(t) of the shaping; 1 without.
        parts: velocities [B, ...] of the parts of a composed field that were evaluated, by name; none of another.
        pull: (g²/2) s [B, ...], what the drift has besides in a step with noise; None in one without.
        field: states [B, ...] -> velocities [B, ...] at this time, for those who want derivatives; None where it is
            not at hand, as when measures are told of the step of an adaptive method.
    """

    __slots__ = ("_power", "field", "gain", "parts", "pull", "t", "v", "x")

    def __init__(
        self,
        *,
        t: float,
        x: Tensor,
        v: Tensor,
        gain: float,
        parts: Mapping[str, Tensor] = MappingProxyType({}),
        pull: Tensor | None = None,
        field: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.t, self.x, self.v, self.gain, self.parts, self.pull, self.field = t, x, v, gain, parts, pull, field
        self._power: Tensor | None = None

    @property
    def drift(self) -> Tensor:
        """Velocity of the motion, η v + (g²/2) s, [B, ...]."""
        shaped = self.v if self.gain == 1 else self.gain * self.v
        return shaped if self.pull is None else shaped + self.pull

    @property
    def power(self) -> Tensor:
        """Power ½‖v‖² of the field, [B], computed once for all that ask."""
        if self._power is None:
            self._power = power(self.v)
        return self._power

    @property
    def spent(self) -> Tensor:
        """Power of the motion, ½‖η v + (g²/2) s‖², [B]."""
        if self.pull is not None:
            return power(self.drift)
        return self.power if self.gain == 1 else self.gain**2 * self.power


@dataclass(frozen=True)
class Arrival:
    """Where the samples end, and what the solver has integrated on the way."""

    t: float
    x: Tensor  # [B, ...]
    integrals: Mapping[str, Tensor]  # of each `Rate` by its name, [B]
    early: Mapping[str, Tensor]  # the parts of them from times before τ, [B]


class Measure:
    """One number for each sample, named `name`, in units of `unit`.

    `sign` says what the number has to do with copying: 1 where a large value means a copy, -1 where a small one does,
    0 where neither is known, None where the number says nothing that another does not. `needs` are the names of the
    rates whose integrals it reads.

    The object itself holds settings alone and can be used by several integrations at once. What it gathers on the way
    is `state`: None at first, then whatever `step` or `look` returned last; what was seen in a step that a solver
    rejects is taken back.
    """

    name: str
    unit: str = ""
    sign: Sign = 0
    needs: tuple[str, ...] = ()

    def work(self, size: int) -> float:
        """About how many evaluations of the network it costs at each one, for samples of `size` numbers."""
        return 0.0

    def step(self, state: Any, now: Evaluation, dt: float) -> Any:
        """Take in an accepted step of length `dt` that starts at `now`; returns the next state."""
        return state

    def look(self, state: Any, now: Evaluation) -> Any:
        """Look at an evaluation of the field, those inside a step too; returns the next state."""
        return state

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return the number of each sample, [B]; NaN where it is not known."""
        raise NotImplementedError(f"{type(self).__name__} must say its result")


class Rate(Measure):
    """A measure that is an integral over time: the solver integrates `rate` with its own order, at no extra call."""

    def rate(self, now: Evaluation) -> Tensor:
        """Return what accrues per unit of time at `now`, [B], float32 or wider."""
        raise NotImplementedError(f"{type(self).__name__} must say its rate")

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return the whole integral."""
        return end.integrals[self.name]


class Probe(Measure):
    """A number that is found from the finished sample by asking the field again; NaN where nobody asks."""

    def ask(self, field: Any, x: Tensor, seeds: Tensor, *, labels: Any, sampler: Any, precision: str) -> Tensor:
        """Return the number of each sample `x` [B, ...] of `seeds` [B], drawn from `field` by `sampler` -> [B]."""
        raise NotImplementedError(f"{type(self).__name__} must say what it asks")

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return NaN: on the way alone it is not known."""
        return unknown(end)


class Recording(Measure):
    """A measure whose result is no column but something over time, of any shape."""


def checked(measures: "tuple[Measure, ...]") -> None:
    """Raise KineticError unless names are distinct and everything that a measure needs is there."""
    names = [measure.name for measure in measures]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise KineticError(f"two measures are called {twice!r}; give one of them another name")
    rates = {measure.name for measure in measures if isinstance(measure, Rate)}
    for measure in measures:
        missing = [name for name in measure.needs if name not in rates]
        if missing:
            raise KineticError(f"the measure {measure.name!r} needs {missing[0]!r}; pass that one too")


def unknown(end: Arrival) -> Tensor:
    """NaN for each sample, [B]."""
    return end.x.new_full(end.x.shape[:1], torch.nan)
