"""Checkpoints of a run: the last, the best, and some to look back at."""

import filecmp
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from kinetic.errors import KineticError
from kinetic.store.files import replacing
from kinetic.training.lightning import go_on_after_epoch, train_metrics, validation_is_next
from kinetic.training.loggers import MetricsCSV


class Checkpoints(Checkpoint):
    """Writes checkpoints/last.ckpt, best.ckpt and step=N.ckpt into the run folder.

    `last` is written every `every_n_steps` steps and after every validation, never between a validation's step and the
    validation itself: a run killed during a validation repeats it.

    Args:
        every_n_steps: steps between two writes of last.ckpt.
        keep_every_n_steps: steps between two checkpoints that are kept for good; None keeps none.
        monitor: metric of the best checkpoint (the lower the better).
    """

    def __init__(
        self, *, every_n_steps: int = 1000, keep_every_n_steps: int | None = None, monitor: str = "val/loss"
    ) -> None:
        if every_n_steps < 1 or (keep_every_n_steps is not None and keep_every_n_steps < 1):
            raise KineticError("every_n_steps and keep_every_n_steps must be at least 1")
        self.every_n_steps, self.keep_every_n_steps, self.monitor = every_n_steps, keep_every_n_steps, monitor
        self.best: float | None = None
        self.best_step = -1
        self._saved_step = -1

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and the step that had it."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best value so far."""
        best, step = state_dict["best"], state_dict.get("best_step", -1)
        if not (best is None or (isinstance(best, float) and math.isfinite(best))) or not isinstance(step, int):
            raise KineticError(f"the checkpoint is damaged: its best value is {best!r:.40} at step {step!r:.40}")
        self.best, self.best_step = best, step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the copies that a run which was killed behind its last checkpoint did not get to make."""
        go_on_after_epoch(trainer)
        self._make_good(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make them of a run that had taken all its steps, whose training does not start again."""
        if self._saved_step == -1:
            self._make_good(trainer)

    def _make_good(self, trainer: Trainer) -> None:
        step = self._saved_step = trainer.global_step
        if step == 0 or not (self._folder(trainer) / "last.ckpt").is_file():
            return
        if self._is_kept(step):
            self._copy_last(trainer, f"step={step}.ckpt")
        if step == self.best_step:
            self._copy_last(trainer, "best.ckpt")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, unless a validation comes first."""
        step = trainer.global_step
        if step == self._saved_step or validation_is_next(trainer):
            return
        if step % self.every_n_steps == 0 or self._is_kept(step) or step == trainer.max_steps:
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last checkpoint, and the best if this is it."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        improved = value is not None and bool(torch.isfinite(value)) and (self.best is None or float(value) < self.best)
        if improved and value is not None:
            self.best, self.best_step = float(value), trainer.global_step
        self.save(trainer)
        if improved:
            self._copy_last(trainer, "best.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the model that training ended with, whatever ended it."""
        if trainer.global_step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write last.ckpt, and its copy where this step is kept (all processes call this)."""
        self._saved_step = trainer.global_step
        self._log(trainer)
        trainer.save_checkpoint(self._folder(trainer) / "last.ckpt")
        if self._is_kept(trainer.global_step):
            self._copy_last(trainer, f"step={trainer.global_step}.ckpt")

    def _log(self, trainer: Trainer) -> None:
        """Have the row of this step in metrics.csv before the checkpoint that no run will train it again from."""
        found = train_metrics(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                if found is not None:
                    logger.log_metrics(*found)
                logger.flush()

    def _copy_last(self, trainer: Trainer, name: str) -> None:
        """Keep what was saved last under another name, too, unless it is there."""
        last, copy = self._folder(trainer) / "last.ckpt", self._folder(trainer) / name
        if not trainer.is_global_zero or (copy.is_file() and filecmp.cmp(last, copy, shallow=False)):
            return
        with replacing(copy) as beside:
            shutil.copyfile(last, beside)

    def _is_kept(self, step: int) -> bool:
        return self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0

    def _folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"
