"""Encoding under Lightning's `Trainer.predict`: each process writes shards of its own, and the first one ends it."""

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from kinetic.callbacks.stopping import Interrupted
from kinetic.data.encoding import Encoding
from kinetic.data.manifest import Manifest
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.models.autoencoder import Autoencoder
from kinetic.samples.drawing import Jobs
from kinetic.training.loggers import is_rank_zero


class EncodingModule(LightningModule):
    """An autoencoder and the shards that are to be written with it."""

    def __init__(self, plan: Encoding, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.plan, self.net = plan, autoencoder.net  # the net is where Lightning finds it, to move it to the device
        self._bar: Any = None

    def predict_dataloader(self) -> DataLoader:
        """This process's share of the shards that are missing, as the first process sees them."""
        assert self.trainer is not None
        seen = [{"shard": shard} for shard in self.plan.missing()] if self.trainer.is_global_zero else []
        jobs = self.trainer.strategy.broadcast(seen)
        share = jobs[self.trainer.global_rank :: self.trainer.world_size]
        total = sum(self.plan.size(*job["shard"]) for job in share)
        self._bar = progress("encoding", "images", total=total)
        return DataLoader(Jobs(share or [{"shard": None}]), batch_size=None, collate_fn=_same)

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> bool:
        """Write one shard; a process that has none to write waits for the others."""
        if batch["shard"] is None:
            return False
        try:
            split, number = batch["shard"]
            self.plan.write(split, number, self._bar.update)
        except torch.OutOfMemoryError:
            raise KineticError("out of memory while encoding; pass a smaller --batch-size") from None
        return True

    def on_predict_end(self) -> None:
        """Wait until every process has written its shards."""
        self._bar.close()
        assert self.trainer is not None
        self.trainer.strategy.barrier()


def encode_shards(plan: Encoding, autoencoder: Autoencoder, trainer: Trainer) -> Manifest | None:
    """Write what is missing; every process calls this. None where all is there already, and on all but the first."""
    done = is_rank_zero() and plan.begin()
    if done and trainer.world_size == 1:  # several processes go on together or not at all
        return None
    warnings.filterwarnings("ignore", "Total length of `DataLoader` across ranks is zero.*")
    try:
        trainer.predict(EncodingModule(plan, autoencoder), return_predictions=False)
    except SystemExit:  # what Lightning turns Ctrl-C into
        raise Interrupted("stopped; the same command goes on with the shards that are missing") from None
    return plan.finish() if trainer.is_global_zero and not done else None


def _same(item: Any) -> Any:
    return item
