"""Mean and covariance of features in float64, a batch or a rank at a time, and the Fréchet distance between two."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.tensors import chunks

ROWS = 4096  # features that are widened at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """What the Fréchet distance needs of a set of features; parts of a set are merged to those of the whole."""

    count: int
    mean: Tensor  # [F] float64
    scatter: Tensor  # [F, F] float64, Σ (f - mean)(f - mean)ᵀ

    @classmethod
    def of(cls, features: Tensor, weights: Tensor | None = None) -> "Moments":
        """Take the moments of features [n, F] of any float dtype, row i counted `weights[i]` (int [n]) times."""
        if features.ndim != 2:
            raise KineticError(f"moments need features [N, F], got {tuple(features.shape)}")
        wide = features.detach().double()
        counts = torch.ones(len(wide), dtype=torch.int64) if weights is None else weights
        total, share = int(counts.sum()), counts.to(wide)
        mean = share @ wide / max(total, 1)
        centred = wide - mean
        return cls(total, mean, (centred * share[:, None]).T @ centred)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance [F, F]; KineticError below two features."""
        if self.count < 2:
            raise KineticError(f"a covariance needs at least 2 images, got {self.count}")
        return self.scatter / (self.count - 1)

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both sets together, whatever their sizes (Chan, Golub and LeVeque, 1979)."""
        if len(self.mean) != len(other.mean):
            raise KineticError(f"features of {len(self.mean)} and of {len(other.mean)} numbers cannot be merged")
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / max(count, 1))
        between = torch.outer(step, step) * (self.count * other.count / max(count, 1))
        return Moments(count, mean, self.scatter + other.scatter + between)

    @cached_property
    def factor(self) -> Tensor:
        """A matrix L [F, r] with L Lᵀ the covariance and r its numerical rank."""
        values, vectors = torch.linalg.eigh(self.covariance)
        keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
        return vectors[:, keep] * values[keep].sqrt()


def moments(batches: Tensor | Iterable[Tensor]) -> Moments:
    """Accumulate the moments of features [N, F], or of batches [n, F] of them, in float64 and one pass."""
    total: Moments | None = None
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        for rows in chunks(len(batch), ROWS):
            part = Moments.of(batch[rows])
            total = part if total is None else total.merged(part)
    if total is None:
        raise KineticError("there are no features to take moments of; pass at least one image")
    return total


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖μ - ν‖² + tr(A + B - 2 (A B)^½), the squared 2-Wasserstein distance of Gaussians; FID of Inception features.

    The trace of the root is the sum of the singular values of Lᵀ M where A = L Lᵀ and B = M Mᵀ: no root of a matrix
    that is not symmetric is taken, and singular covariances are no special case.
    """
    if len(a.mean) != len(b.mean):
        raise KineticError(f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared")
    if not all(bool(m.scatter.isfinite().all()) for m in (a, b)):
        raise KineticError("some features are not finite, so their Fréchet distance is undefined; leave them out")
    root = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    trace = a.covariance.trace() + b.covariance.trace()
    return max(float((a.mean - b.mean).square().sum() + trace - 2 * root), 0.0)
