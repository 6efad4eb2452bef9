"""Exponential moving average of a network's weights, in float32 whatever the network trains in."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from kinetic.errors import KineticError
from kinetic.flow.field import Field


class AveragedNetwork(nn.Module):
    """A float32 copy of `network` that follows it: w <- d w + (1 - d) w_network after every optimiser step.

    The decay warms up, d = min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not held back by its
    initial weights. Buffers are copied, not averaged. Call it as the network itself: `averaged(x, t, labels)`.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, *, decay: float = 0.9999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise KineticError(f"ema_decay must lie in [0, 1), got {decay}; use null for no averaging")
        self.decay = decay
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
        """Take one averaging step towards `network`, whose parameters have the same names and shapes.

        The host counts along, so that it does not have to wait for the device.
        """
        n = self._count = (int(self.updates) if self._count is None else self._count) + 1
        weight = 1 - min(self.decay, (1 + n) / (10 + n))
        ours: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(ours, [p.detach().float() for p in network.parameters()], weight)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates.fill_(n)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow moves between devices, but not casts to a narrower type: bf16 weights do not move under an EMA."""

        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if tensor.is_floating_point() else moved

        return super()._apply(keep_float32, recurse)


def _forget_count(averaged: nn.Module, keys: Any) -> None:
    """Have the number of updates read anew after other weights were loaded."""
    averaged._count = None  # type: ignore[assignment]
