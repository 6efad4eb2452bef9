"""How far two columns of numbers rise together: rank correlations with bootstrap intervals, undefined where they are.

Rows are resampled in pairs, the same ones for every pair of columns of one length and seed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kinetic.errors import KineticError
from kinetic.metrics.statistics import Estimate
from kinetic.tensors import chunks, seed_from

Array = NDArray[Any]
LEAST = 10  # rows, below which an interval means nothing
REPEATS = 500  # resamplings
LEVEL = 0.95
BLOCK = 512  # rows of a matrix of pairs that are held at a time
KEY = 0x5EA4


def spearman_estimate(a: Array, b: Array, *, repeats: int = REPEATS, seed: int = 0) -> Estimate:
    """Spearman's ρ of columns [N], over rows where both are finite; KineticError where it is undefined."""
    x, y = finite_pairs(a, b)
    drawn = [_pearson(*(stats.rankdata(v[rows], axis=1) for v in (x, y))) for rows in resampled(len(x), repeats, seed)]
    return _estimate(float(stats.spearmanr(x, y).statistic), np.concatenate(drawn))


def kendall_estimate(a: Array, b: Array, *, repeats: int = REPEATS, seed: int = 0) -> Estimate:
    """Kendall's τ-b of columns [N], over rows where both are finite; KineticError where it is undefined."""
    x, y = finite_pairs(a, b)
    counts = np.concatenate(
        [np.stack([np.bincount(row, minlength=len(x)) for row in rows]) for rows in resampled(len(x), repeats, seed)]
    ).astype(np.float32)
    sums = np.zeros((3, repeats))
    for part in chunks(len(x), BLOCK):
        signs = [np.sign(v[part, None] - v[None]).astype(np.float32) for v in (x, y)]
        for number, pairs in enumerate((signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))):
            sums[number] += (counts @ pairs.T * counts[:, part]).sum(1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _estimate(float(stats.kendalltau(x, y).statistic), sums[0] / np.sqrt(sums[1] * sums[2]))


def within_classes(values: Array, labels: Array) -> Array:
    """Rank of each value [N] among the finite ones of its class, as a share in (0, 1); NaN for those that are not.

    Classes of fewer than three values say nothing and are NaN.
    """
    ranks = np.full(len(values), np.nan)
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & np.isfinite(values))
        if len(rows) >= 3:
            ranks[rows] = (stats.rankdata(values[rows]) - 0.5) / len(rows)
    return ranks


def finite_pairs(a: Array, b: Array) -> tuple[Array, Array]:
    """Rows of two columns [N] where both are finite, as float64; KineticError where they have no rank correlation."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise KineticError(f"a correlation needs two columns of one length, got {list(x.shape)} and {list(y.shape)}")
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) < LEAST:
        raise KineticError(f"a rank correlation needs at least {LEAST} samples with finite numbers, got {len(x)}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise KineticError(
            f"the correlation is undefined: one of the columns is {x[0] if np.ptp(x) == 0 else y[0]:g} throughout"
        )
    return x, y


def resampled(count: int, repeats: int, seed: int) -> list[Array]:
    """Rows [n, count] drawn with replacement, some resamplings at a time, `repeats` in all."""
    draw = np.random.default_rng(seed_from(KEY, seed))
    parts = chunks(repeats, max(1, 2**22 // count))
    return [draw.integers(count, size=(part.stop - part.start, count)) for part in parts]


def _pearson(x: Array, y: Array) -> Array:
    """Correlation of the rows of two matrices [R, N]; NaN where one is constant."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def _estimate(value: float, drawn: Array) -> Estimate:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
