"""Exponential moving average of a network's weights, in float32 whatever the network trains in."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from kinetic.errors import KineticError
from kinetic.flow.field import Field


class AveragedNetwork(nn.Module):
    """A float32 copy of `network` that follows it: w <- d w + (1 - d) w_network after every optimiser step.

    The decay warms up, d = min(decay, (1 + n) / (10 + n)) at step n, so that a short run is not held back by its
    initial weights. With `every` k the weights move at every k-th step alone, by the product of the decays of the k
    steps: what every step would give if the network rested over them. Buffers are copied, not averaged. Call it as the
    network itself: `averaged(x, t, labels)`.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, *, decay: float = 0.9999, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise KineticError(f"ema_every must be at least 1, got {every}")
        if not 0 <= decay < 1:
            raise KineticError(f"ema_decay must lie in [0, 1), got {decay}; use null for no averaging")
        self.decay, self.every = decay, every
        copied = deepcopy(network)
        wide = all(p.dtype == torch.float32 for p in copied.parameters())
        self.network = (copied if wide else copied.float()).requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._count: int | None = 0  # the same on the host, None until it is read from loaded weights
        self.register_load_state_dict_post_hook(_forget_count)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the network, None if it is unconditional."""
        return Field.of(self.network).num_classes

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample of the network, if it states one."""
        return Field.of(self.network).shape

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Evaluate the averaged network."""
        return self.network(x, t, labels)

    def train(self, mode: bool = True) -> "AveragedNetwork":
        """Stay in evaluation mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Count one step of `network`, whose parameters have the same names and shapes, and follow it where due.

        The host counts along, so that it does not have to wait for the device.
        """
        n = self._count = (int(self.updates) if self._count is None else self._count) + 1
        self.updates.fill_(n)
        if n % self.every:
            return
        kept = math.prod(min(self.decay, (1 + i) / (10 + i)) for i in range(n - self.every + 1, n + 1))
        ours: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(ours, [p.detach().float() for p in network.parameters()], 1 - kept)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow moves between devices, but not casts to a narrower type: bf16 weights do not move under an EMA."""

        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if tensor.is_floating_point() else moved

        return super()._apply(keep_float32, recurse)


def _forget_count(averaged: nn.Module, keys: Any) -> None:
    """Have the number of updates read anew after other weights were loaded."""
    averaged._count = None  # type: ignore[assignment]
