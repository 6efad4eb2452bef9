"""Checkpoints of a run: the last, the best, and some to look back at."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from kinetic.errors import KineticError
from kinetic.store.files import replacing
from kinetic.training.lightning import validation_is_next


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
        self._saved_step = -1

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best value so far."""
        self.best = state_dict["best"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where the run starts, which is saved already if it was resumed."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, unless a validation comes first."""
        step = trainer.global_step
        if step == self._saved_step or validation_is_next(trainer):
            return
        if step % self.every_n_steps == 0 or self._is_kept(step) or step == trainer.max_steps:
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last checkpoint, and the best if this is it."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        improved = value is not None and bool(torch.isfinite(value)) and (self.best is None or float(value) < self.best)
        if improved and value is not None:
            self.best = float(value)
        self._save_last(trainer)
        if improved:
            self._copy_last(trainer, "best.ckpt")

    def _save_last(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self._folder(trainer) / "last.ckpt")
        if self._is_kept(trainer.global_step):
            self._copy_last(trainer, f"step={trainer.global_step}.ckpt")

    def _copy_last(self, trainer: Trainer, name: str) -> None:
        """Keep what was just saved under another name, too."""
        if trainer.is_global_zero:
            with replacing(self._folder(trainer) / name) as beside:
                shutil.copyfile(self._folder(trainer) / "last.ckpt", beside)

    def _is_kept(self, step: int) -> bool:
        return self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0

    def _folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"
