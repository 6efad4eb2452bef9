"""What public networks' latents are scaled by, and the statistics files that some come with."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.models.checkpoint import read_checkpoint
from kinetic.models.schema import tensors

SCALES = {"sit": 0.18215, "repa": 0.18215, "lightningdit": 1.0}  # what training multiplied latents by


def read_statistics(path: Path | str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each of the `channels`, from a file of tensors `mean` and `std`."""
    found = read_checkpoint(path)
    mean, std = (_values(found.get(name), name, channels, f"{path}") for name in ("mean", "std"))
    if min(std) <= 0:
        raise KineticError(f"{path}: std must be above 0 for every channel")
    return mean, std


def _values(found: Any, name: str, channels: int, source: str) -> tuple[float, ...]:
    if not isinstance(found, Tensor):
        raise KineticError(f"{source} holds no tensor called {name}; it should have mean and std of the latents")
    tensors({name: found}, "statistics", source)
    if found.numel() != channels or not torch.isfinite(found).all():
        raise KineticError(f"{source}: {name} should have {channels} finite values, and has {found.numel()} values")
    return tuple(found.flatten().double().tolist())
