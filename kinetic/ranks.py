"""What the processes of a training tell one another: values, tensors, and that one of them failed; no pickles."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kinetic.errors import KineticError

T = TypeVar("T")


@dataclass(frozen=True)
class Parcel:
    """What one process gives: a value that JSON can hold (NaN and infinity, too), and tensors by their names."""

    note: Any = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def place() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def bounds(total: int, rank: int, world: int) -> tuple[int, int]:
    """First and last row + 1 of the share of a rank: shares are consecutive, in the order of the ranks."""
    return total * rank // world, total * (rank + 1) // world


def gather(parcel: Parcel) -> list[Parcel]:
    """Collect the parcels of all processes (all must call this), in the order of their ranks, tensors on the CPU.

    They may have tensors of other names, shapes and types.
    """
    if place()[1] == 1:
        return [parcel]
    own = packed(parcel)
    sizes = [int(size) for size in collect(torch.tensor([len(own)]))]
    padded = torch.nn.functional.pad(own, (0, max(sizes) - len(own)))
    return [unpacked(data[:size]) for data, size in zip(collect(padded), sizes, strict=True)]


def collect(own: Tensor) -> list[Tensor]:
    """Gather tensors of one shape and type onto the CPU, by way of the device that the backend takes."""
    there = own.to(_device())
    found = [torch.empty_like(there) for _ in range(dist.get_world_size())]
    dist.all_gather(found, there)
    return [tensor.cpu() for tensor in found]


def packed(parcel: Parcel) -> Tensor:
    """Make one uint8 [n] of a parcel: the length of its head (int64), the head as JSON, the bytes of all tensors."""
    described = [[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in parcel.tensors.items()]
    head = json.dumps([parcel.note, described]).encode()
    parts = [torch.tensor([len(head)]), torch.frombuffer(bytearray(head), dtype=torch.uint8), *parcel.tensors.values()]
    return torch.cat([part.detach().cpu().reshape(-1).view(torch.uint8) for part in parts])


def unpacked(data: Tensor) -> Parcel:
    """Open what `packed` made."""
    start = 8 + int(data[:8].clone().view(torch.int64))
    note, described = json.loads(bytes(data[8:start].tolist()))
    tensors = {}
    for name, kind, shape in described:
        dtype: torch.dtype = getattr(torch, kind)
        stop = start + math.prod(shape) * dtype.itemsize
        tensors[name] = data[start:stop].clone().view(dtype).view(shape)
        start = stop
    return Parcel(note, tensors)


def gather_notes(note: Any) -> list[Any]:
    """Collect a value that JSON can hold of every process, in the order of their ranks."""
    return [parcel.note for parcel in gather(Parcel(note))]


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


def together(call: Callable[[], T], *, shared: bool = True) -> T:
    """Do something in every process: where it fails in one it fails in all, so that none waits for it for ever.

    What is not `shared` is done by this process alone.
    """
    if not shared:
        return call()
    result, error = None, None
    try:
        result = call()
    except Exception as raised:
        error = raised
    troubles = gather_notes(None if error is None else " ".join(str(error).split())[:300] or type(error).__name__)
    if error is not None:
        raise error
    found = next(((rank, trouble) for rank, trouble in enumerate(troubles) if trouble is not None), None)
    if found is not None:
        raise KineticError(f"process {found[0]}: {found[1]}")
    return result  # type: ignore[return-value]


def _device() -> torch.device:
    """Where the tensors must lie that processes exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
