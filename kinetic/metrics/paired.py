"""By how much two settings differ that were drawn with the same seeds, and how certain that is.

Seeds are resampled with replacement, the same ones on both sides, so that what they have in common cancels. The real
images, and the balls of precision and recall, stay as they are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.metrics.manifolds import balls, radii
from kinetic.metrics.moments import Moments, frechet_distance
from kinetic.metrics.quality import check_matching
from kinetic.metrics.real import RealFeatures, check_features
from kinetic.tensors import generator

LEVEL = 0.95  # of an interval

# From features of samples [M, F], real ones, and how often each sample counts, int64 [R, M]: one figure a row, [R].
Metric = Callable[[Tensor, RealFeatures, Tensor], Tensor]


@dataclass(frozen=True)
class Difference:
    """A figure of two settings, the first minus the second."""

    a: float
    b: float
    difference: float
    error: float  # standard error
    low: float  # interval about the difference, by quantiles of the resampled ones about their mean
    high: float
    repeats: int


@dataclass(frozen=True, eq=False)
class Resampled:
    """A figure of one setting, and what it is over resamplings of its seeds: found once, compared with many."""

    values: Tensor  # [1 + repeats] float64, the figure itself first

    @classmethod
    def of(
        cls, metric: Metric, features: Tensor, real: RealFeatures, *, repeats: int = 200, seed: int = 0
    ) -> "Resampled":
        """Take `metric` of features [M, F]; settings with the same `seed` draw the same rows."""
        _check(repeats)
        check_features(features, "samples")
        check_matching(features, real)
        once = torch.ones(1, len(features), dtype=torch.int64)
        weights = torch.cat([once, resampled(len(features), repeats=repeats, seed=seed)])
        return cls(metric(features.detach().float().cpu(), real, weights).double())

    @property
    def figure(self) -> float:
        """The figure itself."""
        return float(self.values[0])

    def minus(self, other: "Resampled", *, level: float = LEVEL) -> Difference:
        """What this figure differs by from that of another setting of the same seeds."""
        _check(len(self.values) - 1, level)
        difference, drawn = self.figure - other.figure, (self.values - other.values)[1:]
        outside = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low, high = (difference + (drawn - drawn.mean()).quantile(outside)).tolist()
        return Difference(self.figure, other.figure, difference, float(drawn.std()), low, high, len(drawn))


def paired_difference(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    real: RealFeatures,
    *,
    repeats: int = 200,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """Compare settings whose features `a` and `b` [M, F] belong to the same seeds row by row.

    `metric` is `fid`, `precision`, `recall`, `density` or `coverage` of this module, or another one like them.
    """
    if a.shape != b.shape:
        raise KineticError(f"settings are paired by their seeds, got features {list(a.shape)} and {list(b.shape)}")
    first, second = (Resampled.of(metric, x, real, repeats=repeats, seed=seed) for x in (a, b))
    return first.minus(second, level=level)


def _check(repeats: int, level: float = LEVEL) -> None:
    if repeats < 10 or not 0 < level < 1:
        raise KineticError(f"resampling takes at least 10 repeats and a level in (0, 1), got {repeats} and {level}")


def resampled(count: int, *, repeats: int, seed: int) -> Tensor:
    """How often each of `count` rows is drawn with replacement, int64 [repeats, count]; row r depends on (seed, r)."""
    rows = [torch.randint(count, (count,), generator=generator(seed, r)) for r in range(repeats)]
    return torch.stack([torch.bincount(row, minlength=count) for row in rows])


def fid(samples: Tensor, real: RealFeatures, weights: Tensor) -> Tensor:
    """Fréchet distance from weighted moments."""
    wide = samples.double()
    values = [frechet_distance(Moments.of(wide, row), real.moments) for row in weights]
    return torch.tensor(values, dtype=torch.float64)


def precision(samples: Tensor, real: RealFeatures, weights: Tensor) -> Tensor:
    """Share of the drawn samples that lie in the ball of some real image."""
    return _mean((_held(samples, real) > 0).double(), weights)


def density(samples: Tensor, real: RealFeatures, weights: Tensor) -> Tensor:
    """Balls of real images that a drawn sample lies in, over k."""
    return _mean(_held(samples, real).double() / real.k, weights)


def recall(samples: Tensor, real: RealFeatures, weights: Tensor) -> Tensor:
    """Share of real images in the ball, of its radius among all samples, of some sample that was drawn."""
    drawn = (weights > 0).float().T
    found = balls(samples, radii(samples, k=real.k), real.features, real.radii)
    return _reached((in_sample for _, in_sample in found), drawn) / len(real.features)


def coverage(samples: Tensor, real: RealFeatures, weights: Tensor) -> Tensor:
    """Share of real images with a sample that was drawn in their ball."""
    drawn = (weights > 0).float().T
    found = balls(samples, real.radii.new_zeros(len(samples)), real.features, real.radii)
    return _reached((in_real for in_real, _ in found), drawn) / len(real.features)


def _held(samples: Tensor, real: RealFeatures) -> Tensor:
    """In how many balls of real images each sample lies, int64 [M]."""
    found = balls(samples, real.radii.new_zeros(len(samples)), real.features, real.radii)
    return torch.stack([in_real.sum(0) for in_real, _ in found]).sum(0)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return weights.double() @ values / weights.sum(1)


def _reached(parts: Iterable[Tensor], drawn: Tensor) -> Tensor:
    """How many rows of booleans [n, M] hold for some sample that is drawn, 0 or 1 [M, R], -> [R]."""
    return torch.stack([(part.float() @ drawn > 0).sum(0) for part in parts]).sum(0).double()
