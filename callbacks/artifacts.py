"""What a run leaves behind, as artifacts of Weights & Biases."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kinetic.memorization.onset import BEFORE
from kinetic.store.runs import BEST, LAST
from kinetic.training.weights_and_biases import QuietWandb

KEPT = (LAST, BEST, BEFORE)


class Artifacts(Callback):
    """Gives the checkpoints and the report of a run to W&B when training ends: `model-RUN` and `report-RUN`.

    Of the checkpoints the last, the best, and the one before the onset of copying, where there is one.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give what lies in the run folder; offline it is kept for `wandb sync`."""
        folder = Path(trainer.default_root_dir)
        parts = {
            "model": [folder / name for name in KEPT],
            "report": [folder / "report.html"],
        }
        for logger in trainer.loggers if trainer.is_global_zero else ():
            for kind, files in parts.items():
                there = [path for path in files if path.is_file()]
                if isinstance(logger, QuietWandb) and there:
                    logger.log_artifact(f"{kind}-{folder.name}", kind, there)
