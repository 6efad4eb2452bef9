"""How two numbers go together by rank, with intervals; undefined is an error, not a number."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kinetic.errors import KineticError
from kinetic.metrics.detection import LEVEL, REPEATS
from kinetic.metrics.statistics import Estimate
from kinetic.tensors import seed_from

Array = NDArray[Any]
Kind = Literal["spearman", "kendall"]

LEAST = 3  # pairs
KEY = 0xC0221


def rank_correlation(
    a: Any, b: Any, *, kind: Kind = "spearman", repeats: int = REPEATS, seed: int = 0, names: str = "the two"
) -> Estimate:
    """Rank correlation of `a` and `b` [N] in [-1, 1] over the rows where both are finite, with its 95 % interval.

    `kind` is spearman (ρ) or kendall (τ_b; ties count half). The interval is of quantiles over `repeats` resamplings of
    the pairs; those in which one side is constant are left out. Raises KineticError, which speaks of `names`, where the
    correlation is undefined: fewer than three pairs, or one side constant.
    """
    if kind not in get_args(Kind):
        raise KineticError(f"unknown rank correlation {kind!r}; choose from {', '.join(get_args(Kind))}")
    x, y = _pairs(a, b, names)
    found = _coefficient(x, y, kind)
    draw = np.random.default_rng(seed_from(KEY, seed))
    rows = (draw.integers(len(x), size=len(x)) for _ in range(repeats))
    again = [_coefficient(x[row], y[row], kind) for row in rows if np.ptp(x[row]) > 0 and np.ptp(y[row]) > 0]
    low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if again else (np.nan, np.nan)
    return Estimate(found, float(low), float(high))


def _pairs(a: Any, b: Any, names: str) -> tuple[Array, Array]:
    """The finite pairs, or why they have no correlation."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise KineticError(f"expected two arrays of one shape [N], got {x.shape} and {y.shape}")
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) < LEAST:
        raise KineticError(f"a correlation of {names} needs {LEAST} finite pairs or more, got {len(x)}; draw more")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise KineticError(f"the correlation of {names} is undefined: one of them is the same for all {len(x)} samples")
    return x, y


def _coefficient(x: Array, y: Array, kind: Kind) -> float:
    if kind == "kendall":
        return float(stats.kendalltau(x, y).statistic)
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])
