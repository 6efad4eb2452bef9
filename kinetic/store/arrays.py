"""Arrays as npy files hold them: the header is held against the bytes behind it before anything is allocated."""

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kinetic.errors import KineticError
from kinetic.store.files import replacing

ABOUT = "about"  # what a file of arrays was made for
T = TypeVar("T")


class Header(NamedTuple):
    """What an npy file says that it holds; `offset` is where that begins, and `there` how many bytes follow."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int
    there: int

    @property
    def promised(self) -> int:
        """Bytes of an array of that shape and kind."""
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(data: bytes) -> Header:
    """Read the header of the bytes of an npy file; whatever numpy raises for one that it did not write."""
    file = io.BytesIO(data)
    read: Any = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return Header(shape, fortran, dtype, file.tell(), len(data) - file.tell())


def npy_values(data: bytes, header: Header) -> NDArray[Any]:
    """View the array behind a header that has been checked: no objects, and just the bytes that it promises."""
    if not header.promised:
        return np.empty(header.shape, header.dtype)
    values = np.frombuffer(data, header.dtype, offset=header.offset)
    return values.reshape(header.shape[::-1]).T if header.fortran else values.reshape(header.shape)


def write_npz(path: Path | str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as an uncompressed npz file, whole or not at all; none may hold objects."""
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an uncompressed npz file; ValueError where it claims more than it holds."""
    with zipfile.ZipFile(path) as archive:
        size = path.stat().st_size
        members = {part.filename.removesuffix(".npy"): part for part in archive.infolist()}
        if sum(part.file_size for part in members.values()) > size or any(p.compress_type for p in members.values()):
            raise ValueError(f"it claims to hold more than its {size:,} bytes")
        return {name: _array(archive.read(members[name])) for name in members}


def read_npz_as(path: Path, make: Callable[[dict[str, NDArray[Any]]], T], *, fault: str, advice: str) -> T:
    """Make something of the arrays of a file; a file that is `fault` is a KineticError with the reason and `advice`."""
    try:
        return make(read_npz(path))
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # whatever zipfile and numpy make of bytes that they did not write
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KineticError(f"{path} {fault} ({reason}); {advice}") from None


def _array(data: bytes) -> NDArray[Any]:
    """Decode an npy file, whose header is held against the bytes behind it before anything is allocated."""
    header = npy_header(data)
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject or min(shape, default=1) < 0 or header.promised != header.there:
        raise ValueError(f"an array of shape {shape!s:.80} and kind {dtype!s:.40} is not what it holds")
    return np.array(npy_values(data, header))


def kept(path: Path, about: Any, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file that was written for the same `about`, plain types; else make and keep them there.

    So what was interrupted goes on, and what is asked for again is there. A damaged file is made again.
    """
    said = json.dumps(about, sort_keys=True)
    try:
        found = read_npz_as(path, dict, fault="is damaged", advice="it is made again")
        if str(found.pop(ABOUT, "")) == said:
            return found
    except (FileNotFoundError, KineticError):
        pass
    made = make()
    write_npz(path, {ABOUT: np.array(said), **made})
    return made
