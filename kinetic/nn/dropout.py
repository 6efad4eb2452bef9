"""Dropout whose mask costs little on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """Zero each element with probability `p` while training, and divide the others by the probability of staying.

    On a CPU torch draws one random number an element, one after the other; here four elements share one of 64 bits, so
    that `p` is taken to the nearest 1/65536, by which the others are then scaled: the expectation is exact. Elsewhere,
    and in a compiled graph, it is torch's own. The mask is a function of torch's generator, and has the memory format
    of the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x [...] to the same shape; with `inplace` it is overwritten."""
        if not self.training or self.p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p, self.training, self.inplace)
        dropped = round(self.p * LEVELS)
        if dropped == LEVELS:
            return x.zero_() if self.inplace else x * 0
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
        levels = drawn.view(torch.int16)[: x.numel()].as_strided(x.shape, torch.empty_like(x).stride())
        kept = torch.empty_like(levels)
        torch.ge(levels, dropped - LEVELS // 2, out=kept)
        mask = kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
        return x.mul_(mask) if self.inplace else x * mask
