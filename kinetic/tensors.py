"""Small tensor helpers that everything else stands on."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError


def expand(t: Tensor, x: Tensor) -> Tensor:
    """View `t` [B] as [B, 1, ..., 1] with as many axes as `x` [B, ...]."""
    return t.reshape(t.shape[0], *[1] * (x.ndim - 1))


def squared_norm(x: Tensor) -> Tensor:
    """Sum of squares of each row, [B, ...] -> [B], accumulated in float32 or wider whatever the dtype of `x`."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide.flatten(1).square().sum(1)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `size` that cover `range(total)`."""
    if size < 1:
        raise KineticError(f"chunk size must be at least 1, got {size}")
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


class Scratch:
    """Memory that is used again: asking the system for tens of megabytes a chunk takes longer than to fill them."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of any values, which overwrites the one before."""
        size = math.prod(shape) * dtype.itemsize
        if self._memory.numel() < size:
            self._memory = self._memory.new_empty(size)
        return self._memory[:size].view(dtype).view(*shape)

    def wide(self, x: Tensor) -> Tensor:
        """Values as float32, or float64 where they are."""
        return x if x.dtype == torch.float64 else self.single(x)

    def single(self, x: Tensor) -> Tensor:
        """Values as float32, `x` itself if they are."""
        return x if x.dtype == torch.float32 else self.empty(x.shape).copy_(x)


def seed_from(*key: int) -> int:
    """Hash integers, such as (seed, rank, step), to one 63-bit seed; the same on every machine and Python."""
    digest = hashlib.blake2b(",".join(str(int(k)) for k in key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int) -> torch.Generator:
    """Make a CPU generator that is a function of the integers in `key` alone."""
    return torch.Generator().manual_seed(seed_from(*key))


def seeded_noise(seeds: Sequence[int] | Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw standard normal noise [len(seeds), *shape] on the CPU; row i depends on `seeds[i]` alone."""
    rows = [torch.randn(tuple(shape), generator=generator(seed), dtype=dtype) for seed in map(int, seeds)]
    return torch.stack(rows) if rows else torch.empty((0, *shape), dtype=dtype)


def orthonormal(directions: Tensor) -> Tensor:
    """Directions [K, D], of which K <= D, made orthogonal one after the other and of length 1, without turning any."""
    q, r = torch.linalg.qr(directions.T)
    return (q * r.diagonal().sign()).T


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in float32: no TF32, no bfloat16, no autocast; what was set before is restored.

    PyTorch has an old setting for all libraries and newer ones for each, and reading the old one raises once a newer
    one was used; where there are newer ones, only those are touched.
    """
    libraries: tuple[Any, Any] = (torch.backends.cuda, torch.backends.mkldnn)
    backends = [b.matmul for b in libraries if hasattr(getattr(b, "matmul", None), "fp32_precision")]
    saved = [b.fp32_precision for b in backends] or torch.get_float32_matmul_precision()
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        if not backends:
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, value in zip(backends, saved, strict=False):
            backend.fp32_precision = value
        if not backends:
            torch.set_float32_matmul_precision(str(saved))
