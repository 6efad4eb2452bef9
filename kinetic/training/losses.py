"""A look-out for losses that are not finite, which makes the host wait for the device only when it looks."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.training.lightning import checkpoint_state

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


class RunningMean:
    """Mean of values that come in batches, over all processes: a sum and a count, so that no batch weighs too much."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Take in values [n], which stay on their device; they are summed in float64 where it has that."""
        wide = values.detach().to(_wide(values.device)).sum()
        self.sum = wide if self.sum is None else self.sum + wide
        self.count += len(values)

    def over_processes(self, strategy: Strategy) -> Tensor | None:
        """Mean over all processes (all call this), float32 []; None where there are no values at all."""
        device = strategy.root_device
        total = torch.zeros((), dtype=_wide(device), device=device) if self.sum is None else self.sum
        pair = torch.stack([total, total.new_tensor(self.count)])
        summed = strategy.reduce(pair, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return None if not summed[1] else (summed[0] / summed[1]).float()


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def stop_on(bad: BadLoss, trainer: Trainer) -> NoReturn:
    """Save what is needed to look into a loss that was not finite, and raise NonFiniteLoss."""
    target = Path(trainer.default_root_dir) / "checkpoints" / f"nonfinite-rank{trainer.global_rank}.ckpt"
    step = trainer.fit_loop.epoch_loop.total_batch_idx
    state = checkpoint_state(trainer) | {"nonfinite": bad.to_dict()}
    trainer.strategy.checkpoint_io.save_checkpoint(state, target)
    weights = "the weights before it" if bad.step == step else f"the weights as of step {step}"
    raise NonFiniteLoss(
        f"the loss is {bad.loss} at step {bad.step} (times {bad.times[:4]}..., samples {bad.ids[:4]}...); "
        f"{weights}, all times and all samples are in {target}; lower the learning rate or clip gradients "
        "(--trainer.gradient_clip_val 1), then --resume"
    )
