"""Quality and copies by kinetic path energy, and whether keeping a band of energies alone is worth it.

The band is chosen on one half of the seeds and judged on the other, against as many samples chosen at random: a subset
is worse than its whole in some figures whatever it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.metrics.real import LEAST, RealFeatures
from kinetic.metrics.statistics import Estimate, wilson
from kinetic.report.findings import Cell
from kinetic.samples.band import Band
from kinetic.studies.qualities import METRICS
from kinetic.tensors import generator

DECILES = 10
SUBSETS = 50  # random ones of the size of a band
LEVEL = (0.025, 0.975)
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Finite samples: energies [N], and copies bool [N] and features [N, F] where these are known."""

    energy: Array
    copied: Array | None
    features: Tensor | None

    def rows(self, keep: Array) -> "Measured":
        """Some samples alone, bool [N]."""
        copied = None if self.copied is None else self.copied[keep]
        features = None if self.features is None else self.features[torch.from_numpy(keep)]
        return Measured(energy=self.energy[keep], copied=copied, features=features)

    def f_mem(self) -> float:
        """Share of copies; NaN where they were not looked for."""
        return float("nan") if self.copied is None else float(self.copied.mean())


def check_energies(energy: Array) -> None:
    """Raise KineticError where energies [N] have no deciles that anything could be said of."""
    if len(energy) < (least := 2 * DECILES * LEAST):
        raise KineticError(f"deciles of two halves need {least} finite samples, there are {len(energy)}; draw more")
    if np.ptp(energy) == 0:
        raise KineticError("all samples have the same energy, so there are no deciles of it")


def deciles_of(energy: Array) -> Array:
    """The decile 0 to 9 of each energy [N], by rank."""
    order = np.argsort(np.argsort(energy, kind="stable"), kind="stable")
    return order * DECILES // len(energy)


def decile_rows(found: Measured, real: RealFeatures | None) -> list[dict[str, Cell]]:
    """A row a decile of energy: its span, copies, and quality of as many samples each."""
    decile = deciles_of(found.energy)
    return [_decile(number, found.rows(decile == number), real) for number in range(DECILES)]


def _decile(number: int, part: Measured, real: RealFeatures | None) -> dict[str, Cell]:
    row: dict[str, Cell] = {"decile": number + 1, "samples": len(part.energy)}
    row |= {"energy_from": float(part.energy.min()), "energy_to": float(part.energy.max())}
    if part.copied is not None:
        count, total = int(part.copied.sum()), len(part.copied)
        row["F_mem"] = Estimate(count / total, *wilson(count, total))
    if part.features is not None and real is not None:
        row |= quality_of_part(part.features, real)
    return row


def quality_of_part(features: Tensor, real: RealFeatures) -> dict[str, float]:
    """fd, precision and recall of features [M, F]."""
    once = torch.ones(1, len(features), dtype=torch.int64)
    return {name: float(metric(features, real, once)[0]) for name, metric in METRICS.items()}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A band, and what keeping it alone does on the seeds that it was not chosen on.

    Attributes:
        band: of quantiles; None where none was found that loses no quality.
        kept: how many samples lie inside, of `samples`.
        fall: in F_mem against all samples, with its interval; None where copies are not known.
        inside: fd, precision and recall inside, and `random`, with intervals, of as many samples at random.
    """

    band: Band | None
    samples: int
    kept: int = 0
    fall: Estimate | None = None
    f_mem: tuple[float, float] = (float("nan"), float("nan"))  # of all, and inside
    inside: Mapping[str, float] | None = None
    random: Mapping[str, Estimate] | None = None

    @property
    def recommended(self) -> bool:
        """Whether there are certainly fewer copies inside, and a Fréchet distance as of as many at random, or less."""
        fewer = self.fall is not None and self.fall.low > 0
        good = self.inside is None or self.random is None or self.inside["fd"] <= self.random["fd"].high
        return self.band is not None and fewer and good


def choose(found: Measured, real: RealFeatures | None, *, least: float, tolerance: float) -> Verdict:
    """Choose a band of whole deciles with a share `least` of the samples on every other one, and judge it on the rest.

    It has the fewest copies of those whose Fréchet distance is no more than `tolerance` (a share) above that of as many
    samples at random; where copies are not known, the smallest distance.
    """
    even = np.arange(len(found.energy)) % 2 == 0
    first, second = found.rows(even), found.rows(~even)
    scored = [(_score(first, ends, real, tolerance), ends) for ends in _bands(least)]
    best = min((one for one in scored if one[0] is not None), default=None)
    if best is None:
        return Verdict(band=None, samples=len(second.energy))
    low, high = best[1]
    return _judged(second, Band(low / DECILES, high / DECILES, quantiles=True), real)


def _bands(least: float) -> list[tuple[int, int]]:
    """Deciles from and to (excluded) of every band of at least a share `least` that is not everything."""
    spans = [(low, high) for low in range(DECILES) for high in range(low + 1, DECILES + 1)]
    return [(low, high) for low, high in spans if least * DECILES - 1e-9 <= high - low < DECILES]


def _score(
    found: Measured, ends: tuple[int, int], real: RealFeatures | None, tolerance: float
) -> tuple[float, ...] | None:
    """How good a band is, the lower the better; None where it costs quality."""
    decile = deciles_of(found.energy)
    keep = (decile >= ends[0]) & (decile < ends[1])
    inside = found.rows(keep)
    copies = () if found.copied is None else (inside.f_mem(),)
    if inside.features is None or real is None or found.features is None:
        return copies or None
    fd = quality_of_part(inside.features, real)["fd"]
    usual = random_parts(found.features, int(keep.sum()), real, subsets=10)["fd"].value
    return (*copies, fd / usual) if fd <= (1 + tolerance) * usual else None


def _judged(found: Measured, band: Band, real: RealFeatures | None) -> Verdict:
    keep = band.keeps(found.energy)
    inside = found.rows(keep)
    fall = None if found.copied is None or inside.copied is None else _fall(found.copied, keep)
    more: dict[str, Any] = {}
    if inside.features is not None and found.features is not None and real is not None:
        more["inside"] = quality_of_part(inside.features, real)
        more["random"] = random_parts(found.features, int(keep.sum()), real)
    copies = (found.f_mem(), inside.f_mem())
    return Verdict(band=band, samples=len(keep), kept=int(keep.sum()), fall=fall, f_mem=copies, **more)


def _fall(copied: Array, keep: Array) -> Estimate:
    """F_mem of all samples less that of those kept; seeds are resampled."""
    draw = np.random.default_rng(0)
    rows = draw.integers(len(keep), size=(1000, len(keep)))
    kept = keep[rows]
    inside = (copied[rows] & kept).sum(1) / np.maximum(kept.sum(1), 1)
    low, high = np.quantile(copied[rows].mean(1) - inside, LEVEL)
    return Estimate(float(copied.mean() - copied[keep].mean()), float(low), float(high))


def random_parts(features: Tensor, size: int, real: RealFeatures, *, subsets: int = SUBSETS) -> dict[str, Estimate]:
    """fd, precision and recall of `size` samples at random, with the interval that chance leaves them."""
    parts = [features[torch.randperm(len(features), generator=generator(s))[:size]] for s in range(subsets)]
    found = [quality_of_part(part, real) for part in parts]
    return {name: _spread([one[name] for one in found]) for name in METRICS}


def _spread(values: Sequence[float]) -> Estimate:
    low, high = np.quantile(values, LEVEL)
    return Estimate(float(np.mean(values)), float(low), float(high))
