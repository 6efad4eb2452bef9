"""Read one array of floats from the bytes of an npy file; nothing is unpickled."""

import io
import math
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor


def read_array(data: bytes) -> Tensor:
    """Decode the bytes of an npy file to float32 [...], or raise a ValueError that says why not.

    The header is held against the bytes behind it before anything is allocated. Objects, whole numbers, arrays of
    nothing, NaN and infinite values are refused.
    """
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # numpy evaluates the header as Python's literals, which fail in many ways
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if dtype.kind != "f":
        raise ValueError(f"its numbers are {dtype}, not floats")
    count, there = math.prod(shape), len(data) - file.tell()
    if min(shape, default=0) < 1:
        raise ValueError(f"its shape is {list(shape)}, which holds nothing")
    if count * dtype.itemsize != there:
        raise ValueError(f"its header promises {count * dtype.itemsize:,} bytes of numbers, {there:,} follow")
    values = np.frombuffer(data, dtype, offset=file.tell())
    with np.errstate(over="ignore", invalid="ignore"):
        wide = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
        array = torch.from_numpy(np.array(wide, dtype=np.float32, order="C"))
    if not bool(torch.isfinite(array).all()):
        raise ValueError("some of its numbers are NaN or infinite")
    return array
