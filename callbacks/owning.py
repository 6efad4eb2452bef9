"""When a run's folder is written to."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kinetic.store.runs import RunFolder
from kinetic.training.lightning import set_root

from .telling import say


class OwnFolder(Callback):
    """Writes what a run is into its folder once all is built and restored, and makes it the newest at its first step.

    It stands first among the callbacks, since others write into the folder from then on.

    Args:
        folder: of the run; None on every process but the first.
        config: text of the resolved configuration.
        subset: gives the names of the training images.
    """

    def __init__(self, folder: RunFolder | None, config: str, subset: Callable[[], Sequence[str]]) -> None:
        self.folder, self.config, self.subset = folder, config, subset

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell all processes the folder of the first."""
        set_root(trainer, str(trainer.strategy.broadcast(trainer.default_root_dir)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write configuration and subset."""
        if self.folder is not None:
            self.folder.begin(self.config, self.subset())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let runs/latest name this run."""
        if self.folder is None or self.folder.stepped:
            return
        self.folder.step()
        if self.folder.trouble is not None:
            say(trainer, self.folder.trouble)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what a process left that was killed after the last step, since training did not start again."""
        if self.folder is not None and not self.folder.begun:
            self.folder.tidy()
