"""When a curve over training has reached its plateau, and how one number grows as a power of another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from kinetic.metrics.statistics import Estimate

TOLERANCE = 0.1  # share above its minimum up to which a distance counts as at its plateau


def plateau_step(distances: Mapping[int, float], *, tolerance: float = TOLERANCE) -> int | None:
    """First step whose distance is at most (1 + tolerance) times the least of all steps; None without a finite one.

    `distances` are by step, in any order, and not negative. Later rises, as of a model that copies, do not matter.
    """
    known = {step: value for step, value in sorted(distances.items()) if math.isfinite(value)}
    if not known:
        return None
    limit = (1 + tolerance) * min(known.values())
    return next(step for step, value in known.items() if value <= limit)


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = factor * x ** exponent, the exponent with a 95 % interval: NaN from two points, which a line always fits."""

    factor: float
    exponent: Estimate
    points: int


def power_law(x: Sequence[float], y: Sequence[float], since: Sequence[float] | None = None) -> PowerLaw | None:
    """Fit positive `y` over positive `x` by least squares of the logarithms; None with fewer than two different x.

    Where every `y` is only known to lie above its `since`, the interval also covers the slopes that this leaves open.
    """
    if len(set(x)) < 2:
        return None
    found = stats.linregress(np.log(x), np.log(y))
    free, slope = len(x) - 2, float(found.slope)
    half = float(stats.t.ppf(0.975, free) * found.stderr) if free else math.nan
    low, high = slope - half, slope + half
    if since is not None and free:
        below, above = _open_slopes(np.log(x), np.log(y) - np.log(np.maximum(since, 1)))
        low, high = min(low, slope - below), max(high, slope + above)
    exponent = Estimate(slope, low, high)
    return PowerLaw(factor=math.exp(found.intercept), exponent=exponent, points=len(x))


def _open_slopes(x: Any, gaps: Any) -> tuple[float, float]:
    """By how much the slope over `x` falls and rises at most where each y may be smaller by its gap."""
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return float((weights * gaps)[weights > 0].sum()), float(-(weights * gaps)[weights < 0].sum())
