"""Fields made of other fields: which of them is followed when, and how much of each.

    field = hand_over(late, before, at=0.7)  # late for t < 0.7, before from 0.7 on
    field = away_from(before, late, weight=0.25)  # before + 0.25 (before - late)

Both are sums whose weights are constant between a few times. A solver knows the time on the host, so it evaluates those
parts alone that have a weight there, each once, and never asks the device (`Blend.at`). Called as any network with a
tensor of times (`Composed`), where each row may have its own, all parts are evaluated, and no device is asked either.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.energy import ENERGY_UNIT
from kinetic.flow.field import Field, Velocity
from kinetic.flow.measures import Evaluation, Rate, power
from kinetic.tensors import expand

SLACK = 1e-9  # a time on the host this close below a boundary counts as at it, so that rounded grids meet it
BEFORE, LATE, TRAINING = "before", "late", "training"  # what parts are called, as in the columns energy_before, ...
Weights = Mapping[str, float]


@dataclass(frozen=True)
class Pieces:
    """Weights of the parts, constant between times: `weights[i]` from `starts[i]` (rising, the first is 0) on.

    A part without a weight, or with 0, is not evaluated there.
    """

    starts: tuple[float, ...]
    weights: tuple[Weights, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.starts)) and self.starts[:1] == (0.0,) and self.starts[-1] < 1
        if len(self.starts) != len(self.weights) or not rising:
            raise KineticError(f"pieces need times that rise from 0 and stay below 1, got {self.starts}")

    def at(self, t: float, *, slack: float = SLACK) -> Weights:
        """The weights at a time on the host."""
        return self.weights[max(bisect_right(self.starts, t + slack) - 1, 0)]

    def over(self, name: str, t: Tensor) -> Tensor:
        """The weight of one part at times [B] -> [B], on their device."""
        found = torch.full_like(t, self.weights[0].get(name, 0.0))
        for start, weights in zip(self.starts[1:], self.weights[1:], strict=True):
            found = found.where(t < start, weights.get(name, 0.0))
        return found


@dataclass(frozen=True)
class Blend:
    """A velocity made of others by name; `free` are those that no network is evaluated for."""

    velocities: Mapping[str, Velocity]
    pieces: Pieces
    free: frozenset[str] = frozenset()

    @property
    def jumps(self) -> tuple[float, ...]:
        """Times at which the velocity is discontinuous."""
        return self.pieces.starts[1:]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity at `x` [B, ...] and times `t`, 0-d or [B]; every part is evaluated."""
        t = t.expand(x.shape[0])
        parts = {name: velocity(x, t).to(x.dtype) for name, velocity in self.velocities.items()}
        terms = [expand(self.pieces.over(name, t), x).to(x.dtype) * v for name, v in parts.items()]
        return torch.stack(terms).sum(0)

    def at(self, x: Tensor, t: Tensor, now: float, *, slack: float = SLACK) -> tuple[Tensor, dict[str, Tensor], int]:
        """The velocity where all rows are at the time `now`, those of its parts, and how many networks were evaluated.

        `t` [B] holds the same time on the device.
        """
        weights = {name: weight for name, weight in self.pieces.at(now, slack=slack).items() if weight}
        parts = {name: self.velocities[name](x, t).to(x.dtype) for name in weights}
        terms = [v if weights[name] == 1 else weights[name] * v for name, v in parts.items()]
        return sum(terms[1:], start=terms[0]), parts, len(parts.keys() - self.free)


class Composed(nn.Module):
    """The fields of a blend as one network `net(x, t, labels) -> v`, which moves to a device with all of them."""

    def __init__(self, parts: Mapping[str, Field], pieces: Pieces) -> None:
        super().__init__()
        self.parts, self.pieces = dict(parts), pieces
        self.nets = nn.ModuleList(field.net for field in parts.values() if isinstance(field.net, nn.Module))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Velocity at `x` [B, ...] and `t` [B], for `labels` [B]; every part is evaluated."""
        return self.blend(lambda field: lambda x, t: field(x, t, labels))(x, t)

    def blend(self, velocity: Callable[[Field], Velocity]) -> Blend:
        """Make the velocity of each part by `velocity`, which knows labels, guidance and precision."""
        free = frozenset(name for name, field in self.parts.items() if isinstance(field.net, EmpiricalVelocity))
        return Blend({name: velocity(field) for name, field in self.parts.items()}, self.pieces, free)


class PartEnergy(Rate):
    """Energy of one part of the field along the path that was gone, ½ ∫ ‖v_part‖² dt over the times it has a weight at.

    Like `field_energy` it is not shaped: of a hand-over the two add up to that, and are what comes before and after.
    """

    unit = ENERGY_UNIT

    def __init__(self, part: str) -> None:
        self.part, self.name = part, f"energy_{part}"

    def rate(self, now: Evaluation) -> Tensor:
        """Return ½‖v_part‖², 0 where it has no weight."""
        v = now.parts.get(self.part)
        return torch.zeros_like(now.power) if v is None else power(v)


def part_energies(field: Field) -> tuple[PartEnergy, ...]:
    """The energies of the parts of a composed field; none of another."""
    return tuple(map(PartEnergy, field.net.parts)) if isinstance(field.net, Composed) else ()


def hand_over(late: Field, before: Field, *, at: float = 0.7) -> Field:
    """Follow `late` for t < `at` and `before`, as an earlier checkpoint, from `at` in (0, 1) on.

    Each evaluation calls one of them. Where `at` lies inside a step of a fixed grid, each stage of the step follows the
    field of its own time; an adaptive method is told of the jump.
    """
    if not 0 < at < 1:
        raise KineticError(f"a hand-over must be strictly between 0 and 1, got {at}")
    return _composed({LATE: late, BEFORE: before}, Pieces((0.0, at), ({LATE: 1.0}, {BEFORE: 1.0})), BEFORE)


def away_from(
    base: Field, other: Field, *, name: str = LATE, weight: float = 0.25, between: tuple[float, float] = (0.0, 1.0)
) -> Field:
    """Follow `base` + weight (`base` - `other`) for T0 <= t < T1 of `between`, and `base` alone at other times.

    `other`, which energies call `name`, is what copies: the late network, or the closed-form field of the training set,
    for which no network is evaluated.
    """
    if not (math.isfinite(weight) and weight >= 0):
        raise KineticError(f"weight must be a finite number of at least 0, got {weight}")
    start, end = between
    if not 0 <= start < end <= 1:
        raise KineticError(f"between must be two times that rise in [0, 1], got {start:g}-{end:g}")
    alone, both = {BEFORE: 1.0}, {BEFORE: 1.0 + weight, name: -weight}
    pieces = [(0.0, alone)] if start > 0 else []
    pieces += [(start, both), *([(end, alone)] if end < 1 else [])]
    starts, weights = zip(*pieces, strict=True)
    return _composed({BEFORE: base, name: other}, Pieces(starts, weights), BEFORE)


def _composed(parts: dict[str, Field], pieces: Pieces, first: str) -> Field:
    base = parts[first]
    for name, field in parts.items():
        for what, own, theirs in (
            ("shape", base.shape, field.shape),
            ("number of classes", base.num_classes, field.num_classes),
            ("path", base.path.name, field.path.name),
        ):
            if own != theirs:
                raise KineticError(f"fields of another {what} cannot be combined: {first} has {own}, {name} {theirs}")
    null = all(field.null_label for field in parts.values())
    net = Composed(parts, pieces)
    return replace(base, net=net, null_label=null, prediction="velocity", time="noise_to_data")
