"""A look-out for losses that are not finite, which makes the host wait for the device only when it looks."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError

MOST = 1000  # losses that wait to be looked at; older ones are forgotten, as later ones will not be finite either


class NonFiniteLoss(KineticError):
    """The training loss is NaN or infinite; the message names step, times and samples."""


@dataclass(frozen=True)
class BadLoss:
    """The first loss that was not finite, and the batch behind it."""

    step: int
    loss: float
    times: list[float]
    ids: list[Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)


class LossWatch:
    """Holds the losses since the last look, each with its step [1], times [B] and ids, where they were computed."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, Tensor, Tensor, Sequence[Any]]] = deque(maxlen=MOST)

    def add(self, step: int, loss: Tensor, times: Tensor, ids: Sequence[Any]) -> None:
        """Note the loss of a batch."""
        self.waiting.append((step, loss.detach(), times, ids))

    def take_bad(self) -> BadLoss | None:
        """Look at all losses at once, forget them, and return the first that is not finite."""
        waiting = list(self.waiting)
        self.waiting.clear()
        if not waiting:
            return None
        losses = torch.stack([loss for _, loss, _, _ in waiting]).tolist()
        for loss, (step, _, times, ids) in zip(losses, waiting, strict=True):
            if not math.isfinite(loss):
                return BadLoss(step, loss, [round(float(t), 6) for t in times], list(ids))
        return None
