"""The energy balance: what real images say that the velocity should spend, against what generated samples spend.

Let u = α' x1 + σ' x0 be the conditional velocity of an affine path, A(t) = ½ E‖u‖² and L(t) = E‖u - v(xt, t)‖². The
optimal field v* = E[u | xt] obeys ½ E‖v*‖² = A - ½ L*, and the power of its samples, P(t) = ½ E‖v*(x(t), t)‖², is just
that, since its ODE has the marginals of the path. For any field, the *balance* of a set of real images,

    B(t) = A(t) - ½ L(t) = E⟨u, v⟩ - ½ E‖v‖² = P*(t) - ½ E‖v* - v‖²,

is at most P*(t). The *excess* P - B of held-out images is power that they do not bear out. All of this is ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.memorization.estimates import (
    Mean,
    intercept,
    mean_between,
    mean_of_samples,
    mean_over_time,
    part_between,
)
from kinetic.memorization.image_terms import Images
from kinetic.metrics.statistics import Z
from kinetic.tensors import seeded_noise, squared_norm

Array = NDArray[Any]

BINS = 10  # of the times in [0, 1]


@dataclass(frozen=True)
class Balance:
    """The energy balance of one field; energies in the unit of ½‖x‖².

    Attributes:
        conditional: A of the held-out images, the energy of straight lines from noise to them.
        held_out: balance of the held-out images.
        train: balance of as many training images; None without any.
        power: mean energy of the generated samples.
        excess: `power` less `held_out`, with its 95 % interval `excess_low` to `excess_high`.
        gap: `train` less `held_out`, with its interval `gap_low` to `gap_high`; NaN without training images.
        since: the time from which on the excess of every bin lies above 0, None where the last bin's does not.
        profile: over bins of t: columns t (middle), power, conditional, held_out, train, excess and gap with their
            intervals, and gain (η*, the least-squares gain of the field on held-out images; 1 is a perfect field).
        classes: the same numbers as above for each class, without a profile.
    """

    conditional: float
    held_out: float
    train: float | None
    power: float
    excess: float
    excess_low: float
    excess_high: float
    gap: float
    gap_low: float
    gap_high: float
    since: float | None
    profile: dict[str, Array]
    classes: "dict[int, Balance]"


@dataclass(frozen=True)
class Spent:
    """What generated samples spent.

    Attributes:
        energy: of each, float64 [n].
        start: ‖x0‖² - D of the noise that each began at [n].
        times: where each step starts [steps], and `power` [steps, n] is ½‖v‖² there.
        labels: class of each [n], -1 without.
    """

    energy: Array
    start: Array
    times: Array
    power: Array
    labels: Array

    @classmethod
    def drawn(
        cls, seeds: Array, shape: Sequence[int], *, energy: Array, times: Array, power: Array, labels: Array
    ) -> "Spent":
        """What the samples of `seeds` [n], of `shape` each, spent; their noise follows from the seeds."""
        norms = [float(squared_norm(seeded_noise([seed], shape))) for seed in seeds]
        return cls(energy, np.array(norms) - math.prod(shape), times, power, labels)

    def of_class(self, label: int) -> "Spent":
        """The samples of one class."""
        keep = self.labels == label
        return Spent(self.energy[keep], self.start[keep], self.times, self.power[:, keep], self.labels[keep])


def energy_balance(spent: Spent, held_out: Images, train: Images | None = None, *, bins: int = BINS) -> Balance:
    """Balance what samples spent with what real images bear out; KineticError without either."""
    if not len(held_out) or not len(spent.energy):
        raise KineticError("an energy balance needs held-out images and samples, and there are none that are finite")
    labels = sorted({int(label) for label in spent.labels} & {int(label) for label in held_out.column("label")})
    classes = {}
    for label in labels if labels != [-1] else []:
        parts = spent.of_class(label), held_out.of_class(label), None if train is None else train.of_class(label)
        classes[label] = _balance(*parts, bins=0, classes={})
    return _balance(spent, held_out, train, bins=bins, classes=classes)


def _balance(
    spent: Spent, held_out: Images, train: Images | None, *, bins: int, classes: dict[int, Balance]
) -> Balance:
    power, held = mean_of_samples(spent.energy, spent.start), mean_over_time(held_out, held_out.balance)
    excess, gap = _difference(power, held), _difference(_mean(train), held)
    profile = _profile(spent, held_out, train, bins) if bins else {}
    return Balance(
        conditional=mean_over_time(held_out, held_out.column("conditional")).value,
        held_out=held.value,
        train=None if train is None or not len(train) else _mean(train).value,
        power=power.value,
        **_named("excess", excess),
        **_named("gap", gap),
        since=_since(profile) if bins else None,
        profile=profile,
        classes=classes,
    )


def _mean(images: Images | None) -> Mean:
    """The balance of images that there may be."""
    return Mean(math.nan, math.nan) if images is None or not len(images) else mean_over_time(images, images.balance)


def _difference(one: Mean, other: Mean) -> tuple[float, float, float]:
    """One mean less another that it does not depend on, and the ends of the 95 % interval."""
    value, half = one.value - other.value, Z * math.hypot(one.error, other.error)
    return value, value - half, value + half


def _named(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def _profile(spent: Spent, held_out: Images, train: Images | None, bins: int) -> dict[str, Array]:
    edges = np.linspace(0, 1, bins + 1)
    columns: dict[str, list[float]] = {name: [] for name in ("t", *NUMBERS)}
    weights = np.diff(np.append(spent.times, 1.0))
    for low, high in pairwise(edges):
        power = _power_between(spent, weights, low, high)
        held, real = mean_between(held_out, held_out.balance, low, high), part_between(held_out, low, high)
        nothing = Mean(math.nan, math.nan)
        seen = nothing if train is None else mean_between(train, train.balance, low, high)
        found = {
            "t": (low + high) / 2,
            "power": power.value,
            "conditional": mean_between(held_out, held_out.column("conditional"), low, high).value,
            "held_out": held.value,
            "train": seen.value,
            **_named("excess", _difference(power, held)),
            **_named("gap", _difference(seen, held)),
            "gain": real.column("product").sum() / max(2 * real.column("power").sum(), 1e-30),
        }
        for name, value in found.items():
            columns[name].append(float(value))
    return {name: np.array(values) for name, values in columns.items()}


NUMBERS = (
    *("power", "conditional", "held_out", "train"),
    *("excess", "excess_low", "excess_high", "gap", "gap_low", "gap_high", "gain"),
)


def _power_between(spent: Spent, weights: Array, low: float, high: float) -> Mean:
    """Mean power of the samples over the steps that start in [low, high), else at its middle."""
    inside = (spent.times >= low) & (spent.times < high)
    if inside.any():
        values = weights[inside] @ spent.power[inside].astype(np.float64) / weights[inside].sum()
    else:
        values = np.array([np.interp((low + high) / 2, spent.times, row) for row in spent.power.T])
    return intercept(values, spent.start[:, None])


def _since(profile: dict[str, Array]) -> float | None:
    """Where the bins begin whose excess lies above 0 from there to the end."""
    above = profile["excess_low"] > 0
    if not above[-1]:
        return None
    first = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    return first / len(above)


def refusal(sampler: Sampler) -> str | None:
    """Why the samples of a sampler do not balance, None where they do.

    Noise does not keep them from it: with the optimal field its samples have the marginals of the path, as those of the
    ODE have, so that the power of the *field* is the same at every t. That of the executed drift is not.
    """
    if sampler.guidance != 1:
        return f"guidance {sampler.guidance:g} leaves the marginals of the path"
    if not sampler.kts.is_off:
        return "shaped samples leave the marginals of the path"
    return "the flow is stopped early" if sampler.end != 1 else None
