"""The training images as files of numbers: written once, by all processes together, and found again by any number.

A set that does not fit into memory is compared with at every validation. Decoding it each time would cost more than the
comparison, so it is kept as one array [N, ...] in half or single precision, of which each process reads its share.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSet
from kinetic.ranks import bounds, gather_notes, gather_rows, place, together
from kinetic.store.files import write_text
from kinetic.store.rows import RowFile

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
COMPARED = 64  # images that are looked at to tell whether a file is of the same set
Pass = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # images [n, ...] and their numbers [n]


def precision_of(name: str) -> torch.dtype:
    """Type of a precision; KineticError for one that images are not kept in."""
    if name not in PRECISIONS:
        raise KineticError(f"images are not kept in precision {name!r:.40}; choose from {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def rounded(images: Tensor, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Images [n, ...] in another precision; KineticError where they lie beyond it."""
    kept = images.to(dtype)
    beyond = images.isfinite().flatten(1).all(1) & ~kept.isfinite().flatten(1).all(1)
    if bool(beyond.any()):
        number, name = int(numbers[beyond.cpu()][0]), str(dtype).removeprefix("torch.")
        raise KineticError(f"image {number} has values beyond {name}: choose precision float32 or bfloat16")
    return kept


@dataclass(frozen=True)
class Keeping:
    """Where a set is kept.

    Attributes:
        folder: for the files, the same for all processes.
        about: plain types that decide what the set is.
        total: images in all shares, of which each is followed by its mirror image or not (`views` 2 or 1).
        dtype: of the files.
        shared: whether this process's pass is a share of the set, as `bounds` has it, or all of it.
    """

    folder: Path
    about: dict[str, Any]
    total: int
    dtype: torch.dtype
    shared: bool
    views: int = 1

    def images(self, read: Pass) -> ImageSet:
        """The set, or this process's share of it: found in the folder, or written there from a pass `read`."""
        holds = self._everywhere(lambda: self._holds(read))
        if not all(gather_notes(holds) if self.shared else [holds]):
            self._write(read)
        return ImageSet.of([self._everywhere(self._opened)], "the reference")

    def _opened(self) -> tuple[RowFile, Tensor]:
        """This process's share: images, and their numbers."""
        rows = slice(*self._bounds())
        numbers = torch.from_numpy(np.load(self._path(".ids.npy"), allow_pickle=False)[rows])
        return RowFile(self._path(".npy"), rows), numbers

    def _holds(self, read: Pass) -> bool:
        """Whether the files are whole, and begin with the same images as this process's pass."""
        if not self._path(".json").is_file():
            return False
        try:
            (found, numbers), (images, ids) = self._opened(), next(read())
            first = found.read(slice(0, min(COMPARED, len(images), len(found))))
        except (OSError, ValueError, StopIteration):
            return False
        same = torch.equal(rounded(images[: len(first)].cpu(), ids, self.dtype), first)
        return same and torch.equal(numbers[: len(first)], ids[: len(first)])

    def _write(self, read: Pass) -> None:
        """Write the set, each process its share, and call it whole when all have."""
        shape, leader = self._everywhere(lambda: tuple(next(read())[0].shape[1:])), self._leader()
        partial = self._path(f".{leader}.partial")
        try:
            self._everywhere(lambda: self._create(partial, shape) if self._first else None)
            ids = self._everywhere(lambda: self._fill(partial, read))
            numbers = torch.cat(gather_rows(ids)) if self.shared else ids
            self._everywhere(lambda: self._finish(partial, numbers) if self._first else None)
        finally:
            if self._first:
                partial.unlink(missing_ok=True)

    def _leader(self) -> int:
        """The process that makes the file."""
        return int(gather_notes(os.getpid())[0]) if self.shared else os.getpid()

    def _create(self, partial: Path, shape: tuple[int, ...]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        RowFile.create(partial, (self.total * self.views, *shape), self.dtype)

    def _fill(self, partial: Path, read: Pass) -> Tensor:
        """Write this process's share; the numbers of its images."""
        file, (row, last), numbers = RowFile(partial, writable=True), self._bounds(), []
        for images, ids in read():
            file.write(row, rounded(images, ids, self.dtype).cpu())
            row += len(images)
            numbers.append(ids.cpu())
        if row != last:
            raise KineticError(f"the reference has {row:,} images by now where {last:,} were expected")
        file.flush()
        return torch.cat(numbers)

    def _finish(self, partial: Path, numbers: Tensor) -> None:
        with open(self._path(".ids.npy"), "wb") as file:
            np.save(file, numbers.numpy(), allow_pickle=False)
        os.replace(partial, self._path(".npy"))
        write_text(self._path(".json"), json.dumps(self.about, indent=1, sort_keys=True) + "\n")

    def _path(self, end: str) -> Path:
        about = {**self.about, "rows": self.total * self.views, "dtype": str(self.dtype)}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"references-{digest}{end}"

    @property
    def _first(self) -> bool:
        return not self.shared or place()[0] == 0

    def _bounds(self) -> tuple[int, int]:
        first, last = bounds(self.total, *place()) if self.shared else (0, self.total)
        return first * self.views, last * self.views

    def _everywhere(self, call: Callable[[], Any]) -> Any:
        return together(call, shared=self.shared)
