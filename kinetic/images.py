"""A set of images that may be too large for memory, read in chunks again and again."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.tensors import Scratch, chunks

HELD = 2**24  # bytes that are copied at a time


class OnDisk(ABC):
    """Images [N, ...] that lie in a file, and of which no more is in memory than was read."""

    shape: tuple[int, ...]  # N first
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def read(self, rows: slice, out: Tensor | None = None) -> Tensor:
        """Read consecutive images [n, ...], into `out` if given."""

    @abstractmethod
    def take(self, rows: Tensor) -> Tensor:
        """Read images by row, int64 [n] -> [n, ...]."""


Shard = Tensor | np.ndarray | OnDisk  # images [n, ...]
Item = Shard | tuple[Shard, Tensor] | tuple[Shard, Tensor, Sequence[str]]  # ids int64 [n], and names


class ImageSet:
    """Images in a fixed order that each pass reads anew, in memory only once they are `kept`.

    `name` is what messages call the set; `names` holds, by id, the images' names met in the first pass.
    """

    def __init__(
        self, source: Iterable[Item] | Callable[[], Iterable[Item]], name: str, device: Any = None, budget: float = 0
    ) -> None:
        """Read from `source`, whose iteration or call starts a pass; `of` and `kept` are the ways to get here."""
        self.source, self.name = source, name
        self.names: dict[int, str] = {}
        self._device, self._budget = device, budget
        self._shape: torch.Size | None = None
        self._count: int | None = None
        self._kept: list[tuple[Shard, Tensor]] | None = None

    @classmethod
    def of(cls, source: "ImageSource", name: str = "the image set") -> "ImageSet":
        """Wrap images [N, ...]: a tensor, array or memory map, or a re-iterable or function that starts a pass.

        A pass yields images [n, ...] of any n, alone or as (images, ids) or (images, ids, names); without ids, images
        are numbered in order. An `ImageSet` is returned as it is.
        """
        if isinstance(source, ImageSet):
            return source
        kind = type(source).__name__
        if isinstance(source, Iterator):
            raise KineticError(f"{name} must be re-iterable, got a one-shot {kind}; pass a list or a function")
        if isinstance(source, Shard):
            source = [source]
        if not callable(source) and not isinstance(source, Iterable):
            raise KineticError(f"{name} must be a tensor, an array, a re-iterable or a function, got a {kind}")
        return cls(source, name)

    def kept(self, device: torch.device | str, budget: float = math.inf) -> "ImageSet":
        """The same set, unread, held on `device` from its first whole pass on if it takes at most `budget` bytes."""
        return ImageSet(self.source, self.name, device, budget)

    @property
    def resident(self) -> bool:
        """Whether the images are in memory, and the source is not read any more."""
        return self._kept is not None

    @property
    def shape(self) -> torch.Size:
        """Shape of one image, known once reading has begun."""
        if self._shape is None:
            raise KineticError(f"{self.name} was not read yet, so the shape of its images is not known")
        return self._shape

    def chunks(
        self,
        size: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        scaled: bool = False,
        reuse: bool = False,
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Make a pass, at most `size` images at a time: their rows in the set, images [n, D], and ids [n] on the CPU.

        Images come as they are stored, but `scaled` turns uint8 pixels to float32 in [-1, 1]. With `reuse` images may
        overwrite those before them.
        """
        start, spare, wide = 0, Scratch() if reuse else None, Scratch(device)
        for images, ids in self.parts():
            for part in chunks(len(images), size):
                flat = _read(images, part, spare).flatten(1)
                flat = flat.float() / 127.5 - 1 if scaled and flat.dtype == torch.uint8 else flat
                flat = flat.to(device=device)
                if dtype not in (None, flat.dtype):
                    flat = wide.empty(flat.shape, dtype).copy_(flat) if reuse else flat.to(dtype)
                yield slice(start + part.start, start + part.stop), flat, ids[part]
            start += len(images)
        if not start:
            raise KineticError(f"{self.name} holds no images; it needs at least one image")

    def gathered(
        self, rows: Tensor, size: int, *, device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Fetch images by row, int64 [n]: places in `rows` [m], and the images [m, D] there, at most `size` at a time.

        Of arrays and files no more is read than that; a stream is passed once.
        """
        order = rows.cpu().argsort(stable=True)
        wanted, start = rows.cpu()[order], 0
        for images, _ in self.parts():
            first, last = torch.searchsorted(wanted, torch.tensor([start, start + len(images)])).tolist()
            for part in chunks(last - first, size):
                picked = _take(images, wanted[first:last][part] - start)
                yield order[first:last][part].to(device), picked.flatten(1).to(device)
            start += len(images)

    def whole(self) -> Tensor:
        """All images in one tensor [N, ...], or [0] where there are none; for a set that is known to fit."""
        parts = [_read(images, slice(0, len(images)), None) for images, _ in self.parts()]
        return torch.cat(parts) if parts else torch.empty(0)

    def parts(self) -> Iterator[tuple[Shard, Tensor]]:
        """Make a pass over images as they come, none of them empty, with their ids."""
        if self._kept is not None:
            yield from self._kept
            return
        start, size = 0, 0
        kept: list[tuple[Shard, Tensor]] | None = []
        for item in self.source() if callable(self.source) else self.source:
            images, ids = self._unpacked(item, start)
            if not len(images):
                continue
            start, size = start + len(images), size + images.nbytes
            self._check(images, start)
            kept = kept if size <= self._budget else None
            if kept is not None:
                images = _loaded(images, torch.device(self._device))
                kept.append((images, ids))
            yield images, ids
        if start != (self._count or start):
            raise self._changed(str(start))
        self._count, self._kept = start, kept or None

    def _unpacked(self, item: Any, start: int) -> tuple[Shard, Tensor]:
        """Images and ids of an item; a first pass notes the names."""
        images, *more = item if isinstance(item, tuple | list) else (item,)
        if not isinstance(images, Shard):
            raise KineticError(f"{self.name} must yield tensors or arrays of images, got a {type(images).__name__}")
        ids = torch.as_tensor(more[0]).cpu() if more else torch.arange(start, start + len(images))
        if len(images) != len(ids):
            raise KineticError(f"{self.name} yields {len(images)} images with {len(ids)} ids")
        if self._count is None and len(more) > 1:
            self.names.update(zip(ids.tolist(), more[1], strict=False))
        return images, ids

    def _check(self, images: Shard, end: int) -> None:
        """Refuse images, up to number `end`, that do not go with those before."""
        shape = torch.Size(images.shape[1:])
        self._shape = shape if self._shape is None else self._shape
        if shape != self._shape:
            raise KineticError(f"images of {self.name} differ in shape: {tuple(self._shape)} and {tuple(shape)}")
        if self._count is not None and end > self._count:
            raise self._changed("more")

    def _changed(self, now: str) -> KineticError:
        return KineticError(f"{self.name} changed: it had {self._count} images when indexed and has {now} now")


ImageSource = Tensor | np.ndarray | ImageSet | Iterable[Item] | Callable[[], Iterable[Item]]


def _read(images: Shard, rows: slice, spare: Scratch | None) -> Tensor:
    """Some consecutive images as a tensor: it shares their memory, or is of a copy where that is read-only."""
    if isinstance(images, OnDisk):
        shape = (rows.stop - rows.start, *images.shape[1:])
        return images.read(rows, None if spare is None else spare.empty(shape, images.dtype))
    part = images[rows]
    if isinstance(part, Tensor):
        return part
    return torch.from_numpy(part if part.flags.writeable else part.copy())


def _take(images: Shard, rows: Tensor) -> Tensor:
    """Copy images by row, int64 [n] on the CPU."""
    if isinstance(images, OnDisk):
        return images.take(rows)
    return images[rows.to(images.device)] if isinstance(images, Tensor) else torch.from_numpy(images[rows.numpy()])


def _loaded(images: Shard, device: torch.device) -> Tensor:
    """All images on a device; those in a file are read a few at a time."""
    if not isinstance(images, OnDisk):
        return _read(images, slice(0, len(images)), None).to(device)
    held = torch.empty(images.shape, dtype=images.dtype, device=device)
    spare = Scratch()
    for rows in chunks(len(images), max(1, HELD * len(images) // images.nbytes)):
        held[rows] = _read(images, rows, spare)
    return held
