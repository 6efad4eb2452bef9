"""Where a patch lies in the image: the fixed embedding that is added to tokens, and rotary positions of attention."""

import torch
from torch import Tensor

from kinetic.nn.embed import sinusoid

PERIOD = 10_000.0  # of the slowest wave of rotary positions, in patches over 2π


def grid_embedding(width: int, grid: int) -> Tensor:
    """Fixed embedding of the patch positions, row by row -> [1, grid * grid, width].

    The first half encodes the column and the second the row, each as sines, then cosines.
    """
    waves = sinusoid(torch.arange(grid, dtype=torch.float64), width // 2)
    cosines, sines = waves.chunk(2, dim=1)
    axis = torch.cat([sines, cosines], dim=1).float()
    rows, columns = _places(grid)
    return torch.cat([axis[columns], axis[rows]], dim=1)[None]


def rotary_waves(channels: int, grid: int) -> Tensor:
    """Cosines and sines by which the channels of one head turn, patch by patch -> [2, grid * grid, channels].

    Neighbouring channels are a pair and turn by one angle: those of the first half by the row, those of the second by
    the column, at channels / 4 frequencies from 1 down. `channels` is a multiple of 4.
    """
    pairs = channels // 4
    frequencies = PERIOD ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = (torch.arange(grid, dtype=torch.float64)[:, None] * frequencies).repeat_interleave(2, dim=1)
    rows, columns = _places(grid)
    both = torch.cat([angles[rows], angles[columns]], dim=1)
    return torch.stack([both.cos(), both.sin()]).float()


def rotate(x: Tensor, waves: Tensor) -> Tensor:
    """Turn queries or keys [B, heads, T, channels] by `waves` [2, T, channels], in the wider dtype of both."""
    cosines, sines = waves
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cosines + torch.stack([-second, first], dim=-1).flatten(-2) * sines


def _places(grid: int) -> tuple[Tensor, Tensor]:
    """Row and column of each patch [grid * grid]."""
    numbers = torch.arange(grid * grid)
    return numbers // grid, numbers % grid
