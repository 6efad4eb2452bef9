"""What the processes of a training tell one another: tensors of different lengths, and that one of them failed."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kinetic.errors import KineticError

T = TypeVar("T")


def place() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def bounds(total: int, rank: int, world: int) -> tuple[int, int]:
    """First and last row + 1 of the share of a rank: shares are consecutive, in the order of the ranks."""
    return total * rank // world, total * (rank + 1) // world


def gather(value: Any) -> list[Any]:
    """Collect a picklable value of every process, in the order of their ranks."""
    _, world = place()
    if world == 1:
        return [value]
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, value)
    return gathered


def gather_rows(rows: Tensor) -> list[Tensor]:
    """Collect tensors [n, ...] of every process, of any n, in the order of their ranks, on the device of `rows`."""
    rank, world = place()
    if world == 1:
        return [rows]
    own = rows.detach().to(_device())
    lengths = torch.zeros(world, dtype=torch.int64, device=own.device)
    lengths[rank] = len(own)
    dist.all_reduce(lengths)
    counts = lengths.tolist()
    padded = own.new_zeros(max(counts), *own.shape[1:])
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(found, padded)
    return [part[:count].to(rows.device) for part, count in zip(found, counts, strict=True)]


def reduce_(x: Tensor, how: str = "sum") -> Tensor:
    """Put the sum or the "max" over all processes in place of `x`, of the same shape in each of them."""
    if place()[1] == 1:
        return x
    shared = x.to(_device())
    dist.all_reduce(shared, dist.ReduceOp.MAX if how == "max" else dist.ReduceOp.SUM)
    return x.copy_(shared)


def together(call: Callable[[], T]) -> T:
    """Do something in every process: where it fails in one it fails in all, so that none waits for it for ever."""
    result, error = None, None
    try:
        result = call()
    except Exception as raised:
        error = raised
    troubles = gather(None if error is None else " ".join(str(error).split())[:300] or type(error).__name__)
    if error is not None:
        raise error
    found = next(((rank, trouble) for rank, trouble in enumerate(troubles) if trouble is not None), None)
    if found is not None:
        raise KineticError(f"process {found[0]}: {found[1]}")
    return result  # type: ignore[return-value]


def _device() -> torch.device:
    """Where the tensors must lie that processes exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
