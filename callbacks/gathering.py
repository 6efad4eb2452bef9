"""What every process has, for all of them: plain values as JSON and tensors as their bytes, in two collectives."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Parcel:
    """What one process gives: a value that JSON can hold (NaN and infinity, too), and tensors by their names."""

    note: Any = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def gather(parcel: Parcel, device: torch.device = CPU) -> list[Parcel]:
    """Collect the parcels of all processes (all must call this), in the order of their ranks, tensors on the CPU.

    They may have tensors of other names, shapes and types. `device` is what the backend takes: a GPU with NCCL.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [parcel]
    own = packed(parcel)
    sizes = [int(size) for size in collect(torch.tensor([len(own)]), device)]
    padded = torch.nn.functional.pad(own, (0, max(sizes) - len(own)))
    return [unpacked(data[:size]) for data, size in zip(collect(padded, device), sizes, strict=True)]


def collect(own: Tensor, device: torch.device) -> list[Tensor]:
    """Gather tensors of one shape and type by way of `device`, onto the CPU."""
    there = own.to(device)
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
