"""Small tensor helpers that everything else stands on."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


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
        raise ValueError(f"chunk size must be at least 1, got {size}")
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


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
