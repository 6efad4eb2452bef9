"""KID: the unbiased squared MMD with a cubic kernel and its standard error (Bińkowski et al. 2018, 1801.01401)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.tensors import generator

SUBSETS, SUBSET_SIZE = 100, 1000  # as published


@dataclass(frozen=True)
class KernelDistance:
    """Mean over subsets, which is unbiased: it may fall below 0; `error` is its standard error."""

    value: float
    error: float
    subset_size: int


def unbiased_mmd(x: Tensor, y: Tensor) -> float:
    """Squared MMD of features [n, F] and [m, F] by the kernel (x·y / F + 1)³, in float64, without a row's own pair."""
    x, y = x.double(), y.double()
    within = 0.0
    for z in (x, y):
        kernel = _kernel(z, z)
        within += float(kernel.sum() - kernel.diagonal().sum()) / (len(z) * (len(z) - 1))
    return within - 2 * float(_kernel(x, y).mean())


def kernel_distance(
    samples: Tensor, real: Tensor, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> KernelDistance:
    """KID of samples [M, F] and real features [N, F]: the mean over random subsets of at most half of the smaller set.

    Of halves of a set the spread is that of the whole set's value; of smaller subsets it is larger by
    √(n / size - 1) (the delete-d jackknife, Shao and Wu 1989). The finite number of subsets is added to it. Where the
    sets hardly differ the error is too large, by a factor of two or more: errors fall as 1 / n there, not as 1 / √n.
    """
    fewest = min(len(samples), len(real))
    size = min(subset_size, fewest // 2)
    if size < 2 or subsets < 2:
        raise KineticError(
            f"KID needs at least 4 images on both sides and 2 subsets of 2: got {fewest} and {subsets} of {subset_size}"
        )
    values = []
    for number in range(subsets):
        rows = [
            torch.randperm(len(x), generator=generator(seed, number, i))[:size] for i, x in enumerate((samples, real))
        ]
        values.append(unbiased_mmd(samples[rows[0]], real[rows[1]]))
    spread, mean = torch.tensor(values, dtype=torch.float64).std(), sum(values) / subsets
    return KernelDistance(mean, float(spread) * math.sqrt(size / (fewest - size) + 1 / subsets), size)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
