"""What a trajectory says about copying without any training data: rank statistics that are undefined, not wrong."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from kinetic.errors import KineticError

THRESHOLD = 1 / 3  # of d1/d2, below which a sample counts as a copy (Yoon et al., 2023), unless a run says otherwise
Z = 1.959964  # standard errors to either side of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Signal:
    """How one per-sample number goes with memorisation; None where that is undefined."""

    name: str
    rho: float | None  # Spearman correlation with d1/d2: negative where large values mean copies
    auroc: float | None  # chance that a copy has a larger (of sign -1: a smaller) value than another; 0.5 says nothing
    n: int  # samples with a finite value and a finite d1/d2
    copies: int  # copies among them
    sign: int = 0  # whether a large (1) or a small (-1) value is meant to show a copy, or neither is known (0)


def spearman(a: Tensor, b: Tensor) -> float | None:
    """Rank correlation of `a` and `b` [N] over the rows where both are finite.

    None with fewer than three such rows, or where one of them is constant.
    """
    x, y = _columns(a, b)
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)


def auroc(score: Tensor, copied: Tensor) -> float | None:
    """Chance that a copy has a higher `score` [N] than a sample that is none; ties count half.

    `copied` [N] is boolean. Rows whose score is not finite are left out; None without both kinds.
    """
    x, flags = _columns(score, copied)
    keep = np.isfinite(x)
    x, positive = x[keep], flags[keep].astype(bool)
    return None if positive.all() or not positive.any() else rank_area(x[positive], x[~positive])


def rank_area(yes: np.ndarray, no: np.ndarray) -> float:
    """Chance that one of `yes` [n] is larger than one of `no` [m], neither empty; ties count half."""
    rank_sum = stats.rankdata(np.concatenate([yes, no]))[: len(yes)].sum()
    return float((rank_sum - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def signal_table(
    signals: Mapping[str, Tensor], ratio: Tensor, copied: Tensor, signs: Mapping[str, int] | None = None
) -> list[Signal]:
    """Compare every signal [N] with d1/d2 and with the copies, over the samples for which d1/d2 [N] is finite.

    `signs` says of which signals a small value is meant to show a copy (-1): their AUROC is that of minus the signal.
    """
    rows = []
    for name, signal in signals.items():
        keep = signal.detach().cpu().isfinite() & ratio.detach().cpu().isfinite()
        x, y, z = signal.detach().cpu()[keep], ratio.detach().cpu()[keep], copied.detach().cpu()[keep]
        sign = (signs or {}).get(name, 0)
        score = auroc(-x if sign < 0 else x, z)
        rows.append(Signal(name, spearman(x, y), score, int(keep.sum()), int(z.bool().sum()), sign))
    return rows


def finite_mean(values: Any) -> float:
    """Mean of the finite values; NaN without any."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def wilson(successes: int, total: int, *, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (95 % by default); (0, 1), which excludes nothing, without trials."""
    if not 0 <= successes <= total:
        raise KineticError(f"successes must lie between 0 and the total {total}, got {successes}")
    if total == 0:
        return 0.0, 1.0
    share, spread = successes / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    low = 0.0 if successes == 0 else middle - half
    return low, 1.0 if successes == total else middle + half


def _columns(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape or a.ndim != 1:
        raise KineticError(f"expected two tensors of one shape [N], got {tuple(a.shape)} and {tuple(b.shape)}")
    return a.detach().cpu().double().numpy(), b.detach().cpu().double().numpy()
