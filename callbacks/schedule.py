"""When to validate."""

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kinetic.errors import KineticError

NEVER = sys.maxsize


class LogSpacedValidation(Callback):
    """Validates at steps with equal ratios, and at the last one: copying sets in over orders of magnitude.

    It takes the place of the trainer's `val_check_interval` and `check_val_every_n_epoch`. Steps are optimiser steps,
    whatever the number of accumulated batches.

    Args:
        first: the first validation, in steps.
        per_decade: validations while the steps grow tenfold.
        steps: validate at these steps instead (and at the last one).
    """

    def __init__(self, *, first: int = 100, per_decade: float = 4, steps: Sequence[int] | None = None) -> None:
        if first < 1:
            raise KineticError(f"first must be at least 1, got {first}")
        if not per_decade > 0:
            raise KineticError(f"per_decade must be greater than 0, got {per_decade}")
        if steps is not None and any(step < 1 for step in steps):
            raise KineticError(f"steps must be at least 1, got {min(steps)}")
        self.first, self.per_decade = first, per_decade
        self.steps = None if steps is None else frozenset(int(step) for step in steps)
        self._last: float = float("inf")

    def is_due(self, step: int) -> bool:
        """Whether to validate after `step` steps."""
        if step == self._last:
            return True
        return step in self.steps if self.steps is not None else self._on_grid(step)

    def _on_grid(self, step: int) -> bool:
        """Whether round(first * 10^(k / per_decade)) is `step` for some k >= 0."""
        k, grid = 0, self.first
        while grid < step:
            k += 1
            grid = round(self.first * 10 ** (k / self.per_decade))
        return grid == step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count steps over epochs, not within one."""
        if stage == "fit":
            trainer.check_val_every_n_epoch = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn which step is the last; when resuming, know whether the step before was validated."""
        self._last = trainer.estimated_stepping_batches
        self._set(trainer, trainer.global_step > 0 and self.is_due(trainer.global_step))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Have the trainer validate after this batch, or not."""
        loop = trainer.fit_loop.epoch_loop
        steps_now = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or loop.batch_progress.is_last_batch
        self._set(trainer, steps_now and self.is_due(trainer.global_step + 1))

    def _set(self, trainer: Trainer, due: bool) -> None:
        trainer.val_check_batch = trainer.fit_loop.epoch_loop.total_batch_idx + 1 if due else NEVER
