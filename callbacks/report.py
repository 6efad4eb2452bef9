"""The report of a run, made by the run itself."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kinetic.training.loggers import MetricsCSV

from .telling import attempt, fitting


class ReportCallback(Callback):
    """Writes report.html into the run folder when training ends.

    Args:
        every_validation: write it after every validation too; it takes a second or two.
    """

    def __init__(self, *, every_validation: bool = False) -> None:
        self.every_validation = every_validation

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Write after a validation, when everything about it has been logged."""
        if self.every_validation and self._fresh:
            self._fresh = False
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is something new."""
        self._fresh = fitting(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one."""
        self._write(trainer)

    _fresh = False

    def _write(self, trainer: Trainer) -> None:
        from kinetic.report import write_report

        for logger in trainer.loggers:
            save = logger.flush if isinstance(logger, MetricsCSV) else logger.save
            attempt(trainer, "saving metrics", save)
        attempt(trainer, "writing report.html", lambda: write_report(Path(trainer.default_root_dir)))
