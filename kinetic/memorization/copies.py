"""Memorisation: the share of samples that are copies of a training image."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSource
from kinetic.metrics.neighbors import nearest
from kinetic.metrics.reference import ReferenceIndex
from kinetic.metrics.statistics import THRESHOLD, wilson

COLUMNS = ("index", "d1", "d2", "ratio", "neighbor", "finite", "copied")


class MemorizationResult(NamedTuple):
    """F_mem with its interval, and one row a sample. (A NamedTuple: torchmetrics refuses frozen dataclasses.)"""

    f_mem: float  # copied / total, NaN without samples
    low: float  # Wilson interval, 95 %
    high: float
    copied: int
    total: int  # all samples, those that are not finite included
    nonfinite: int
    mean_d1: float  # mean distance to the nearest training image, of the finite samples; NaN without any
    table: Tensor  # [N, 7] float64 on the CPU, columns COLUMNS, sorted by index

    def column(self, name: str) -> Tensor:
        """Return a column [N] of the table: index and neighbor as int64, finite and copied as bool, others float64."""
        if name not in COLUMNS:
            raise KineticError(f"unknown column {name!r}; choose from {', '.join(COLUMNS)}")
        values = self.table[:, COLUMNS.index(name)]
        if name in ("index", "neighbor"):
            return values.long()
        return values.bool() if name in ("finite", "copied") else values


def memorization(
    images: Tensor,
    reference: ReferenceIndex | ImageSource,
    *,
    index: Tensor | None = None,
    threshold: float = THRESHOLD,
    flip: bool = False,
) -> MemorizationResult:
    """F_mem of `images` [N, ...] in one call; of held-out real images it is the null that onset is judged by."""
    prepared = prepare(reference, flip=flip)
    numbers = torch.arange(len(images)) if index is None else index
    return summarize(measure(images, prepared, numbers, threshold=threshold).cpu())


def prepare(reference: ReferenceIndex | ImageSource, *, flip: bool = False) -> ReferenceIndex:
    """Index `reference` if it is not an index; raise ValueError where d₂ would be undefined."""
    index = reference if isinstance(reference, ReferenceIndex) else ReferenceIndex.build(reference, flip=flip)
    if flip and not index.flip:
        raise KineticError("flip=True with an index built without flips; build it with ReferenceIndex.build(flip=True)")
    if index.distinct < 2:
        raise KineticError(f"F_mem needs at least two distinct training images, got {index.distinct}")
    return index


def measure(samples: Tensor, reference: ReferenceIndex, index: Tensor, *, threshold: float = THRESHOLD) -> Tensor:
    """Compare samples [B, ...] with the reference: rows [B, 7] float64 with the columns COLUMNS."""
    _check_threshold(threshold)
    index = torch.as_tensor(index, device=samples.device).flatten()
    if len(index) != len(samples):
        raise KineticError(f"{len(samples)} samples with {len(index)} indices; pass one index a sample")
    if index.is_floating_point() or bool((index.abs() >= 2**53).any()):
        raise KineticError("sample indices must be integers below 2**53, as they are stored beside float64 distances")
    found = nearest(samples, reference, k=2)
    d1, d2 = found.distances.unbind(1)
    ratio = torch.where(d1 == 0, 0.0, d1 / d2)
    columns = (index, d1, d2, ratio, found.indices[:, 0], d1.isfinite(), ratio < threshold)
    return torch.stack([column.double() for column in columns], 1)


def summarize(table: Tensor) -> MemorizationResult:
    """Sort rows [N, 7] by index, keep the first of each, and count the copies."""
    table = table[table[:, 0].argsort(stable=True)]
    new = torch.ones(len(table), dtype=torch.bool)
    new[1:] = table[1:, 0] != table[:-1, 0]
    table = table[new]
    finite = table[:, COLUMNS.index("finite")].bool()
    copied, total = int(table[:, COLUMNS.index("copied")].sum()), len(table)
    low, high = wilson(copied, total)
    return MemorizationResult(
        f_mem=copied / total if total else math.nan,
        low=low,
        high=high,
        copied=copied,
        total=total,
        nonfinite=int((~finite).sum()),
        mean_d1=float(table[finite, COLUMNS.index("d1")].mean()),
        table=table,
    )


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise KineticError(f"threshold must lie in (0, 1], got {threshold}; the usual value of d1/d2 is 1/3")
