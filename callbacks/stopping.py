"""Stopping a run so that it can be continued."""

import signal
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kinetic.training.lightning import keep_off_signals, validation_is_next

from .checkpoints import Checkpoints


class Interrupted(Exception):
    """The run was asked to stop by signal `number`, has saved itself, and can be continued."""

    def __init__(self, text: str, number: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.number = int(number)


class StopCleanly(Callback):
    """On Ctrl-C or SIGTERM, finishes the step and its validation, saves last.ckpt and stops; a second stops at once.

    Of several processes any one may be asked: after every step they agree whether to stop.
    """

    def __init__(self) -> None:
        self._asked: int | None = None  # by which signal
        self._saved = False
        self._before: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let SIGTERM stop at once until training begins, without Lightning's broadcast from within the handler."""
        if stage == "fit" and keep_off_signals(trainer):
            self._take({signal.SIGTERM: self._stop})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals."""
        self._take({signal.SIGINT: self._ask, signal.SIGTERM: self._ask})

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        self._take({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: self._stop})

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        raise SIGTERMException

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if asked to stop, unless a validation belongs to this step: then that comes first, and saves."""
        if not validation_is_next(trainer) and self._agreed(trainer):
            _save(trainer)
            self._saved = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that the validation's checkpoint is written next."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._saved = self._agreed(trainer) or self._saved

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop before the next step, when the last one has been logged."""
        if self._saved:
            text = f"stopped at step {trainer.global_step}, saved; go on with --resume"
            raise Interrupted(text, self._asked or signal.SIGINT)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether any process was asked (all processes call this)."""
        return bool(trainer.strategy.reduce_boolean_decision(self._asked is not None, all=False))

    def _take(self, handlers: dict[int, Any]) -> None:
        """Handle signals from now on, remembering who did so before; not outside the main thread."""
        for number, handler in handlers.items():
            try:
                before = signal.signal(number, handler)
            except ValueError:
                return
            self._before.setdefault(number, before)


def _save(trainer: Trainer) -> None:
    """Write last.ckpt as it is always written, behind its row of metrics.csv."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, Checkpoints):
            callback.save(trainer)
            return
    trainer.save_checkpoint(f"{trainer.default_root_dir}/checkpoints/last.ckpt")
