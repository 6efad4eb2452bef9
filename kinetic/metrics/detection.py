"""How well a score tells positives from negatives: AUROC and true positives at few false ones, with intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinetic.metrics.statistics import Estimate, rank_area
from kinetic.tensors import seed_from

Array = NDArray[Any]

REPEATS = 1000
LEVEL = 0.95
KEY = 0xD37EC7


@dataclass(frozen=True)
class Detection:
    """What a score is worth.

    Attributes:
        auroc: chance that a positive has the higher score, ties count half.
        tpr_at_1: share of the positives found where 1 % of the negatives are taken for positives, at most.
        tpr_at_5: the same at 5 %.
        positives: how many there are, and `negatives`.
    """

    auroc: Estimate
    tpr_at_1: Estimate
    tpr_at_5: Estimate
    positives: int
    negatives: int


def detection(score: Array, positive: Array, *, repeats: int = REPEATS, seed: int = 0) -> Detection:
    """Judge a `score` [N], large for `positive` [N]; rows whose score is not finite are left out.

    Intervals are quantiles over `repeats` resamplings of the positives and of the negatives, each among themselves.
    """
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    keep = np.isfinite(score)
    yes, no = score[keep & positive], score[keep & ~positive]
    if not len(yes) or not len(no):
        nothing = Estimate(np.nan, np.nan, np.nan)
        return Detection(nothing, nothing, nothing, len(yes), len(no))
    draw = np.random.default_rng(seed_from(KEY, seed))
    found = np.array([_numbers(draw.choice(yes, len(yes)), draw.choice(no, len(no))) for _ in range(repeats)])
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    area, few, more = (Estimate(*map(float, values)) for values in zip(_numbers(yes, no), low, high, strict=True))
    return Detection(area, few, more, len(yes), len(no))


def mean_estimate(values: Array, *, repeats: int = REPEATS, seed: int = 0) -> Estimate:
    """Mean of `values` [N] with its bootstrap interval; those that are not finite are left out."""
    values = _finite(values)
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    draw = np.random.default_rng(seed_from(KEY, seed))
    means = [float(draw.choice(values, len(values)).mean()) for _ in range(repeats)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def difference_estimate(values: Array, others: Array, *, repeats: int = REPEATS, seed: int = 0) -> Estimate:
    """Mean of `values` [N] less that of `others` [M], each resampled by itself; what is not finite is left out."""
    a, b = _finite(values), _finite(others)
    if not len(a) or not len(b):
        return Estimate(np.nan, np.nan, np.nan)
    draw = np.random.default_rng(seed_from(KEY, seed))
    found = [float(draw.choice(a, len(a)).mean() - draw.choice(b, len(b)).mean()) for _ in range(repeats)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(a.mean() - b.mean()), float(low), float(high))


def _finite(values: Array) -> Array:
    values = np.asarray(values, np.float64)
    return values[np.isfinite(values)]


def _numbers(yes: Array, no: Array) -> tuple[float, float, float]:
    return rank_area(yes, no), _found(yes, no, 0.01), _found(yes, no, 0.05)


def _found(yes: Array, no: Array, rate: float) -> float:
    """Share of `yes` above the lowest threshold that at most a share `rate` of `no` lies above."""
    allowed = int(rate * len(no) + 1e-9)
    threshold = np.partition(no, len(no) - 1 - allowed)[len(no) - 1 - allowed]
    return float((yes > threshold).mean())
