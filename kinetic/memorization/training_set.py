"""The training images that samples are compared with, and the held-out ones that the comparison is judged by."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.data.opening import Reference
from kinetic.errors import KineticError
from kinetic.memorization.copies import MemorizationResult, memorization, prepare
from kinetic.metrics.reference import ReferenceIndex

Range = tuple[float, float]
MARGIN = 0.05  # of the reference's span: how far training images may reach beyond it
FACTOR = 8.0  # how many times wider than theirs its span may be


class Stream:
    """The images of a data module as pairs (images [n, ...], ids [n]), read again each time or kept if they fit."""

    def __init__(self, open_: Callable[[], Iterable[Any]], device: torch.device, cache_bytes: int) -> None:
        self.open, self.device, self.cache_bytes = open_, device, cache_bytes
        self.names: dict[int, str] = {}
        self.kept: list[tuple[Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[tuple[Tensor, Tensor]] | None = []
        size = count = 0
        for item in self.open():
            images, ids, names = _unpacked(item, count)
            count += len(images)
            size += images.numel() * images.element_size()
            self.names.update(zip(ids.tolist(), names, strict=False))
            if kept is not None and size <= self.cache_bytes:
                images = images.to(self.device)
                kept.append((images, ids))
            else:
                kept = None
            yield images, ids
        self.kept = kept


def _unpacked(item: Any, start: int) -> tuple[Tensor, Tensor, Iterable[str]]:
    if isinstance(item, Tensor):
        return item, torch.arange(start, start + len(item)), ()
    images, ids, *names = item
    return images, torch.as_tensor(ids), names[0] if names else ()


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
        stream = Stream(
            (lambda: data.reference(flips=False)) if flip else data.reference, device=device, cache_bytes=cache_bytes
        )
        index = prepare(ReferenceIndex.build(stream, flip=flip, device=device))
        _check_range(seen, (index.low, index.high))
        return cls(index, stream.names)

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
        parts = [_unpacked(item, 0)[0] for item in data.held_out(limit)]
        if not sum(map(len, parts)):
            return None
        images = torch.cat(parts)  # at once, as a streamed reference is read each time
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
    source = Reference(data)
    return ReferenceIndex.build(source, device=device, cache=source.small)


def copies_among(x: Tensor, reference: ReferenceIndex, seeds: Sequence[int]) -> MemorizationResult:
    """F_mem of samples `x` [N, ...]."""
    return memorization(x.to(reference.device), reference, index=torch.tensor(seeds, device=reference.device))
