"""Stops training soon after copying has begun."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kinetic.errors import KineticError

from .memorization import MemorizationCallback
from .telling import fitting


class StopAfterOnset(Callback):
    """Ends training some validations after the onset that the trainer's MemorizationCallback finds.

    Args:
        patience: validations after that of the onset; with 0 training ends there.
    """

    def __init__(self, *, patience: int = 1) -> None:
        if patience < 0:
            raise KineticError(f"patience must not be negative, got {patience}")
        self.patience = patience

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where the onset is certain (all processes know the same history)."""
        for one in trainer.callbacks if fitting(trainer) else ():  # type: ignore[attr-defined]
            if isinstance(one, MemorizationCallback) and one.history.onset is not None:
                since = [step for step in one.history.validations if step > one.history.onset.at.step]
                trainer.should_stop = trainer.should_stop or len(since) >= self.patience
