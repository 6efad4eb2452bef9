"""Images in an npy file that is read a chunk at a time, with plain reads: what is in memory is what was asked for."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import OnDisk
from kinetic.store.arrays import npy_header

KINDS = {"<f2": torch.float16, "|V2": torch.bfloat16, "<f4": torch.float32}  # npy has no name for bfloat16
HEADER = 2**16
ADVICE = "write it again, with numpy or `RowFile.create`"


class RowFile(OnDisk):
    """Rows `part` of an npy file of float16, bfloat16 or float32 [N, ...] in C order.

    bfloat16 is what numpy calls V2, as `np.save` writes such arrays of other libraries.
    """

    def __init__(self, path: Path | str, part: slice | None = None, *, writable: bool = False) -> None:
        """Open a file; KineticError for one that is not such an array, or shorter than it says."""
        self.path = Path(path)
        self._file = open(path, "r+b" if writable else "rb")  # noqa: SIM115 (lives as long as this)
        try:
            header = npy_header(self._file.read(HEADER))
        except ValueError as error:
            raise KineticError(f"{path} is no npy file ({' '.join(str(error).split()):.80}): {ADVICE}") from None
        kind, length = header.dtype.str, os.fstat(self._file.fileno()).st_size - header.offset
        if kind not in KINDS or header.fortran or len(header.shape) < 2:
            what = f"{kind} of shape {header.shape!s:.80}{' in Fortran order' if header.fortran else ''}"
            raise KineticError(f"{path} holds {what}, not float16, bfloat16 or float32 [N, ...]: {ADVICE}")
        if length != header.promised or not header.promised:
            raise KineticError(f"{path} has {length:,} bytes of {header.promised:,}: {ADVICE}")
        first, last, _ = (part or slice(None)).indices(header.shape[0])
        self.dtype, self.shape = KINDS[kind], (last - first, *header.shape[1:])
        self._row = header.promised // header.shape[0]
        self._start = header.offset + first * self._row

    @classmethod
    def create(cls, path: Path | str, shape: Sequence[int], dtype: torch.dtype) -> "RowFile":
        """Write a file of zeros [N, ...], which take no place yet, and open it for `write`."""
        kind = next((name for name, known in KINDS.items() if known == dtype), None)
        if kind is None:
            raise KineticError(f"images are kept as float16, bfloat16 or float32, not {dtype}")
        header = BytesIO()
        npy.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": tuple(shape)})
        with open(path, "wb") as file:
            file.write(header.getvalue())
            file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)
        return cls(path, writable=True)

    def read(self, rows: slice, out: Tensor | None = None) -> Tensor:
        """Read consecutive images [n, ...], into `out` if given, and have the system fetch as many behind them."""
        first, last, _ = rows.indices(len(self))
        made = torch.empty(last - first, *self.shape[1:], dtype=self.dtype) if out is None else out
        self._fill(made, first)
        if hasattr(os, "posix_fadvise"):  # not on macOS
            size = (last - first) * self._row
            os.posix_fadvise(self._file.fileno(), self._start + last * self._row, size, os.POSIX_FADV_WILLNEED)
        return made

    def take(self, rows: Tensor) -> Tensor:
        """Read images by row, int64 [n] -> [n, ...]."""
        made = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype)
        for place, row in enumerate(rows.tolist()):
            self._fill(made[place : place + 1], row)
        return made

    def write(self, first: int, images: Tensor) -> None:
        """Write images [n, ...] from row `first` on, in the type of the file."""
        kept = images.to(self.dtype)
        if kept.shape[1:] != self.shape[1:] or first + len(kept) > len(self):
            raise KineticError(f"{len(kept)} images {list(kept.shape[1:])} do not fit row {first} of {self.shape}")
        left = _bytes(kept.contiguous())
        place = self._start + first * self._row
        while len(left):
            done = os.pwrite(self._file.fileno(), left, place)
            left, place = left[done:], place + done

    def flush(self) -> None:
        """Have what was written on the disk."""
        os.fsync(self._file.fileno())

    def _fill(self, made: Tensor, first: int) -> None:
        left, place = _bytes(made), self._start + first * self._row
        while len(left):
            done = os.preadv(self._file.fileno(), [left], place)
            if not done:
                raise KineticError(f"{self.path} has become shorter: {ADVICE}")
            left, place = left[done:], place + done


def _bytes(x: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return x.view(torch.uint8).numpy().data.cast("B")
