"""The training images that samples are compared with, and the held-out ones that the comparison is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.data.opening import small, training_images
from kinetic.errors import KineticError
from kinetic.images import ImageSet
from kinetic.memorization.copies import MemorizationResult, memorization, prepare
from kinetic.metrics.reference import ReferenceIndex

Range = tuple[float, float]
MARGIN = 0.05  # of the reference's span: how far training images may reach beyond it
FACTOR = 8.0  # how many times wider than theirs its span may be


@dataclass(frozen=True)
class TrainingSet:
    """An index of the training images with their names."""

    index: ReferenceIndex
    names: dict[int, str]

    @classmethod
    def of(cls, data: Any, *, device: torch.device, cache_bytes: int, seen: Range | None = None) -> "TrainingSet":
        """Index what `data.reference()` yields; `seen` is the range of images in training.

        Raises ValueError where there is no reference, fewer than two images, or images of another range.
        """
        if not callable(getattr(data, "reference", None)):
            raise KineticError("the trainer has no datamodule with a reference() to the training images")
        flip = isinstance(data, FlowDataModule) and data.flip
        device = torch.device("cpu") if device.type == "mps" else device  # distances need float64
        source = partial(data.reference, flips=False) if flip else data.reference
        images = ImageSet.of(source, "the reference").kept(device, cache_bytes)
        index = prepare(ReferenceIndex.build(images, flip=flip, device=device))
        _check_range(seen, (index.low, index.high))
        return cls(index, images.names)

    def name(self, number: int) -> str:
        """Name of a training image: as the data module calls it, else its number; empty for none (-1)."""
        return self.names.get(number, str(number)) if number >= 0 else ""

    def beside(self, samples: Tensor, numbers: Tensor) -> Tensor:
        """Fetch training images by number [n] -> [n, ...], mirrored where that is nearer to the samples [n, ...]."""
        images = self.index.images(numbers).cpu()
        if not self.index.flip:
            return images
        straight, mirrored = ((view - samples).flatten(1).norm(dim=1) for view in (images, images.flip(-1)))
        images[mirrored < straight] = images[mirrored < straight].flip(-1)
        return images


@dataclass(frozen=True)
class Null:
    """F_mem of held-out real images, what a model that copies nothing would have."""

    f_mem: float
    high: float  # of its 95 % interval
    count: int

    @classmethod
    def of(cls, data: Any, training: TrainingSet, *, limit: int | None, threshold: float) -> "Null | None":
        """Compare the images of `data.held_out(limit)` with the training images; None where there are none."""
        if limit == 0 or not callable(getattr(data, "held_out", None)):
            return None
        # Whole, as a streamed reference is read at each comparison.
        images = ImageSet.of(partial(data.held_out, limit), "the held-out set").whole()
        if not len(images):
            return None
        result = memorization(images, training.index, threshold=threshold)
        return cls(result.f_mem, result.high, result.total)


def _check_range(seen: Range | None, have: Range) -> None:
    """Training images must lie in the reference's range, which must not be much wider."""
    if seen is None:
        return
    span, slack = have[1] - have[0], MARGIN * (have[1] - have[0])
    inside = have[0] - slack <= seen[0] and seen[1] <= have[1] + slack
    if not inside or span > FACTOR * max(seen[1] - seen[0], 1e-12):
        raise KineticError(
            f"the reference has values in [{have[0]:.3g}, {have[1]:.3g}], but the images trained on lie in "
            f"[{seen[0]:.3g}, {seen[1]:.3g}]; let reference() yield them in the range of training"
        )


def index_of(data: FlowDataModule, device: torch.device) -> ReferenceIndex:
    """Prepare the training images for the search of nearest neighbours on `device`."""
    return ReferenceIndex.build(training_images(data), device=device, cache=small(data))


def copies_among(x: Tensor, reference: ReferenceIndex, seeds: Sequence[int]) -> MemorizationResult:
    """F_mem of samples `x` [N, ...]."""
    return memorization(x.to(reference.device), reference, index=torch.tensor(seeds, device=reference.device))
