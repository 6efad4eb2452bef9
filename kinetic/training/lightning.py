"""What Kinetic needs of Lightning beyond its public interface, each in one place and with a test of its own."""

from typing import Any

from lightning.pytorch import Trainer


def checkpoint_state(trainer: Trainer) -> dict[str, Any]:
    """What a full checkpoint would hold now, without writing it."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def validation_is_next(trainer: Trainer) -> bool:
    """Whether a validation follows the training batch that has just ended."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]


def is_logged_step(trainer: Trainer) -> bool:
    """Whether the optimiser step that is being taken is one at which numbers are logged."""
    every = steps_between_logs(trainer)
    return every > 0 and (trainer.global_step + 1) % every == 0


def steps_between_logs(trainer: Trainer) -> int:
    """Optimiser steps from one at which numbers are logged to the next; 0 where none are."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
