"""How well training images support a sample: its distance to the k-th nearest, and a kernel density, in any features.

The distance is to the k-th nearest distinct training image. Minus its logarithm, times the number of features, is the
nearest-neighbour estimate of a log-density up to a constant (Loftsgaarden and Quesenberry 1965), so that both measures
order samples by density: a larger distance is less support, a larger log-density is more.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pdist

from kinetic.errors import KineticError
from kinetic.metrics.manifolds import squared_distances
from kinetic.metrics.neighbors import ReferenceIndex, nearest
from kinetic.tensors import chunks, generator

ROWS = 8192  # training images at a time
PAIRED = 1000  # training images that a median of distances is over, at most
RULES = ("scott", "median")


@dataclass(frozen=True)
class Support:
    """Support of samples by training images; NaN for a sample that is not finite.

    Attributes:
        distance: to the k-th nearest distinct training image, [M] float64.
        log_density: of a Gaussian kernel round every training image, in nats, [M] float64.
        bandwidth: of the kernel, its standard deviation in every direction.
    """

    distance: Tensor
    log_density: Tensor
    bandwidth: float


def support_of(
    samples: Tensor, training: Tensor, *, k: int = 5, bandwidth: float | str = "scott", chunk: int = ROWS
) -> Support:
    """Measure features of samples [M, F] against those of training images [N, F], `chunk` of them at a time.

    `bandwidth` is a number, or a rule, see `bandwidth_of`.
    """
    if samples.ndim != 2 or training.ndim != 2 or samples.shape[1] != training.shape[1]:
        got = f"{list(samples.shape)} and {list(training.shape)}"
        raise KineticError(f"support needs features [M, F] and [N, F] of one extractor, got {got}")
    width = bandwidth if isinstance(bandwidth, float | int) else bandwidth_of(training, bandwidth)
    found = nearest(samples, ReferenceIndex.build(training), k=k, chunk=chunk)
    return Support(found.distances[:, -1], log_density(samples, training, float(width), chunk=chunk), float(width))


def log_density(samples: Tensor, training: Tensor, bandwidth: float, *, chunk: int = ROWS) -> Tensor:
    """Logarithm of the mean over training images [N, F] of Gaussians N(sample; image, bandwidth² I), [M] float64.

    Densities are added by their logarithms, so that those that underflow still rank.
    """
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise KineticError(f"a bandwidth must be above 0, got {bandwidth:g}; training images that agree have none")
    total = torch.full((len(samples),), -math.inf, dtype=torch.float64, device=samples.device)
    center = training[:ROWS].double().mean(0)
    for part in chunks(len(training), chunk):
        for rows, squared in squared_distances(samples, training[part], center):
            near = torch.logsumexp(squared / (-2 * bandwidth**2), dim=1)
            total[rows] = torch.logaddexp(total[rows], near)
    return total - math.log(len(training)) - samples.shape[1] / 2 * math.log(2 * math.pi * bandwidth**2)


def bandwidth_of(training: Tensor, rule: str = "scott", *, seed: int = 0) -> float:
    """Choose a bandwidth for training images [N, F].

    "scott" is σ N^(-1 / (F + 4)), σ² the variance of a feature averaged over features (Scott 1992); "median" the
    median distance between two of at most 1,000 training images.
    """
    if rule not in RULES:
        raise KineticError(f"unknown bandwidth {rule!r:.40}; choose from {', '.join(RULES)}, or a number above 0")
    if len(training) < 2:
        raise KineticError(f"a bandwidth needs at least 2 training images, got {len(training)}")
    if rule == "median":
        some = torch.randperm(len(training), generator=generator(seed))[:PAIRED]
        return float(pdist(training[some].double()).median())
    spread = math.sqrt(sum(float(column.double().var()) for column in training.T) / training.shape[1])
    return spread * len(training) ** (-1 / (training.shape[1] + 4))
