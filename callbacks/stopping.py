"""Stopping a run so that it can be continued."""

import signal
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kinetic.training.lightning import validation_is_next


class Interrupted(Exception):
    """The run was asked to stop, has saved itself, and can be continued."""


class StopCleanly(Callback):
    """On Ctrl-C or SIGTERM, finishes the step and its validation, saves last.ckpt and stops; a second stops at once.

    On one process only: several ranks would be asked at different steps, so there the last regular checkpoint counts.
    """

    def __init__(self) -> None:
        self._asked = self._saved = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals."""
        if trainer.world_size > 1:
            return
        try:
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread
            self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if asked to stop, unless a validation belongs to this step: then that comes first, and saves."""
        if self._asked and not validation_is_next(trainer):
            trainer.save_checkpoint(f"{trainer.default_root_dir}/checkpoints/last.ckpt")
            self._saved = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that the validation's checkpoint is written next."""
        self._saved = self._saved or self._asked

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop before the next step, when the last one has been logged."""
        if self._saved:
            raise Interrupted(f"stopped at step {trainer.global_step}, saved; go on with --resume")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
