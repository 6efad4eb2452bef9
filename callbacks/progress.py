"""One progress bar for a whole run."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from kinetic.training.lightning import steps_between_logs


class RunProgress(ProgressBar):
    """One bar over all steps with loss, step rate and time left, and one line for every validation.

    Args:
        refresh_rate: steps between two updates of the shown loss, for which the host waits for the device; None is
            the steps at which numbers are logged anyway.
    """

    def __init__(self, refresh_rate: int | None = None) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self._bar: tqdm | None = None
        self._inner: tqdm | None = None
        self._enabled = True

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def disable(self) -> None:
        """Hide the bar, as on every rank but the first."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step where training starts or goes on."""
        total = trainer.estimated_stepping_batches
        self._bar = tqdm(
            total=int(total) if total != float("inf") else None,
            initial=trainer.global_step,
            desc="Training",
            unit="step",
            disable=not self._enabled,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on, and show the loss now and then."""
        if self._bar is None:
            return
        self._bar.update(trainer.global_step - self._bar.n)
        every = self.refresh_rate or max(steps_between_logs(trainer), 1)
        if trainer.global_step % every == 0 and outputs is not None:
            self._bar.set_postfix(loss=f"{float(outputs['loss']):.4f}", epoch=trainer.current_epoch, refresh=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a second bar over the batches of the validation."""
        total = sum(int(n) for n in trainer.num_val_batches if n != float("inf"))
        self._inner = tqdm(
            total=total, desc="Validating", unit="batch", leave=False, disable=not self._enabled, dynamic_ncols=True
        )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move on."""
        if self._inner is not None:
            self._inner.update()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the second bar and print the main figures of this validation."""
        if self._inner is not None:
            self._inner.close()
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.print(validation_line(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message stands on a line of its own."""
        self._close()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar over the batches of seeds."""
        total = sum(int(n) for n in trainer.num_predict_batches)
        self._bar = tqdm(total=total, desc="Sampling", unit="batch", disable=not self._enabled, dynamic_ncols=True)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move on."""
        if self._bar is not None:
            self._bar.update()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        for bar in (self._inner, self._bar):
            if bar is not None:
                bar.close()
        self._inner = self._bar = None


FIGURES = {"loss": "val/loss", "KPE": "kpe/mean", "F_mem": "memorization/f_mem"}


def validation_line(trainer: Trainer) -> str:
    """One line on a validation, of the figures that it has."""
    metrics = trainer.callback_metrics
    parts = [f"{name} {float(metrics[key]):.4g}" for name, key in FIGURES.items() if key in metrics]
    return f"step {trainer.global_step}, epoch {trainer.current_epoch}: {', '.join(parts)}"
