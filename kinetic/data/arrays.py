"""Read one array of floats from the bytes of an npy file; nothing is unpickled."""

import numpy as np
import torch
from torch import Tensor

from kinetic.store.arrays import npy_header, npy_values


def read_array(data: bytes) -> Tensor:
    """Decode the bytes of an npy file to float32 [...], or raise a ValueError that says why not.

    The header is held against the bytes behind it before anything is allocated. Objects, whole numbers, arrays of
    nothing, NaN and infinite values are refused.
    """
    try:
        header = npy_header(data)
    except Exception as error:  # numpy evaluates the header as Python's literals, which fail in many ways
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if header.dtype.kind != "f":
        raise ValueError(f"its numbers are {header.dtype}, not floats")
    if min(header.shape, default=0) < 1:
        raise ValueError(f"its shape is {list(header.shape)}, which holds nothing")
    if header.promised != header.there:
        raise ValueError(f"its header promises {header.promised:,} bytes of numbers, {header.there:,} follow")
    with np.errstate(over="ignore", invalid="ignore"):
        array = torch.from_numpy(np.array(npy_values(data, header), dtype=np.float32, order="C"))
    if not bool(torch.isfinite(array).all()):
        raise ValueError("some of its numbers are NaN or infinite")
    return array
