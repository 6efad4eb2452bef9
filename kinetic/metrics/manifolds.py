"""Precision, recall, density and coverage: which features lie in balls round those of the other set.

The ball round a feature reaches to its k-th nearest neighbour in its own set. Kynkäänniemi et al. 2019 (arXiv
1904.06991, precision and recall) and Naeem et al. 2020 (arXiv 2002.09797, density and coverage).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.tensors import chunks

CELLS = 2**22  # distances that are held at a time
TIE = 1e-12  # of the largest squared norm: rounding of squared distances in float64, so that what is equal stays equal


@dataclass(frozen=True)
class Overlap:
    """How two sets of features lie in each other."""

    precision: float  # share of samples in the ball of some real image
    recall: float  # share of real images in the ball of some sample
    density: float  # balls of real images that a sample lies in, over k, on average: 1 for equal distributions, or more
    coverage: float  # share of real images with a sample in their ball


def radii(features: Tensor, *, k: int) -> Tensor:
    """Squared distance [N] float64 of each feature [N, F] to its k-th nearest neighbour, itself not counted."""
    check_neighbors(len(features), k)
    center = features.double().mean(0)
    found = []
    for rows, squared in squared_distances(features, features, center):
        squared[:, rows].fill_diagonal_(math.inf)
        found.append(squared.kthvalue(k, dim=1).values)
    return torch.cat(found)


def overlap(samples: Tensor, real: Tensor, real_radii: Tensor, *, k: int) -> Overlap:
    """Compare samples [M, F] with real features [N, F], whose `radii` [N] for this k are known, a block at a time."""
    sample_radii = radii(samples, k=k)
    inside_real = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
    recalled = covered = 0
    for in_real, in_sample in balls(samples, sample_radii, real, real_radii):
        inside_real += in_real.sum(0)
        covered += int(in_real.any(1).sum())
        recalled += int(in_sample.any(1).sum())
    return Overlap(
        precision=float((inside_real > 0).double().mean()),
        recall=recalled / len(real),
        density=float(inside_real.double().mean()) / k,
        coverage=covered / len(real),
    )


def balls(samples: Tensor, sample_radii: Tensor, real: Tensor, real_radii: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for some real features at a time, booleans [n, M]: which samples their balls hold, and whose hold them."""
    center = real.double().mean(0)
    largest = max(float((x.double() - center).square().sum(1).max()) for x in (samples, real))
    slack = TIE * largest
    for rows, squared in squared_distances(real, samples, center):
        yield squared <= real_radii[rows, None] + slack, squared <= sample_radii + slack


def squared_distances(a: Tensor, b: Tensor, center: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of `a` [N, F] and their squared distances [n, M] float64 to `b` [M, F], by products in float64."""
    columns = b.double() - center
    norms = columns.square().sum(1)
    for rows in chunks(len(a), max(1, CELLS // len(b))):
        part = a[rows].double() - center
        yield rows, torch.addmm(norms, part, columns.T, alpha=-2).add_(part.square().sum(1)[:, None]).clamp_(min=0)


def check_neighbors(count: int, k: int) -> None:
    """Raise KineticError unless each of `count` features has a k-th neighbour."""
    if k < 1 or count <= k:
        raise KineticError(f"k={k} nearest neighbours need k of 1 or more and at least {max(k, 1) + 1} images: {count}")
