"""A module whose samples are scripted: noise at first, copies of training images from a given step on."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from kinetic.callbacks import KPECallback, MemorizationCallback
from kinetic.data.base import FlowDataModule
from kinetic.data.pools import ArrayPool, Source
from kinetic.flow.energy import STANDARD
from kinetic.flow.seeds import seed_loader
from kinetic.flow.trajectory import Trajectory
from kinetic.memorization.detectors import Response
from kinetic.tensors import seeded_noise
from kinetic.training.loggers import MetricsCSV

SHAPE = (1, 4, 4)
KNOWN = {measure.name: measure for measure in (*STANDARD, Response())}


def images(first: int, count: int) -> torch.Tensor:
    """Images [count, 1, 4, 4] in [-1, 1] that lie far apart."""
    return seeded_noise(range(first, first + count), SHAPE).clamp(-1, 1)


def trajectory(x: torch.Tensor, energy: torch.Tensor, **changes) -> Trajectory:
    """A trajectory to `x` with an energy; the rest follows from it, three steps."""
    columns = {
        "energy": energy,
        "field_energy": 2 * energy,
        "early": 0.25 * energy,
        "late": 0.75 * energy,
        "late_fraction": torch.full_like(energy, 0.75),
        "final_power": energy + 1,
        "drift": energy / 10,
        "per_dim_energy": energy / max(x.shape[1:].numel(), 1),
    }
    power = changes.pop("power", torch.stack([energy, 2 * energy, 3 * energy]))
    times = changes.pop("times", torch.tensor([0.0, 0.5, 0.75]))
    drawn = Trajectory(x=x, nfe=3, times=times, columns={}, recordings={"power": power})
    for name, values in (columns | changes).items():
        drawn = drawn.with_column(KNOWN[name], values)
    return drawn


class Scripted(LightningModule):
    """From step `copy_at` on, samples with an even seed are training images (times a little less than one)."""

    def __init__(self, copy_at: int = 10**9, broken: tuple[int, ...] = ()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.copy_at, self.broken = copy_at, broken

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        return (self.weight * batch["x"]).square().mean()

    def validation_step(self, batch, batch_idx):
        seeds = batch["seeds"]
        x = seeded_noise(seeds + 1000, SHAPE).clamp(-1, 1)
        if self.trainer.global_step >= self.copy_at:
            copies = images(0, 20)[seeds % 20] * 0.999
            x = torch.where((seeds % 2 == 0)[:, None, None, None], copies, x)
        energy = 10 + (seeds * 7 % 11).float()
        for seed in self.broken:
            energy[seeds == seed] = torch.nan
        return trajectory(x, energy)


class Data(LightningDataModule):
    """Twenty training images, thirty held-out ones, seven (or more) seeds."""

    def __init__(self, samples: int = 24, train: int = 20, held: int = 30, batch: int = 3):
        super().__init__()
        self.samples, self.train, self.held, self.batch = samples, train, held, batch

    def train_dataloader(self):
        return DataLoader([{"x": image} for image in images(0, 20)], batch_size=5, shuffle=False)

    def val_dataloader(self):
        trainer = self.trainer
        return seed_loader(
            range(self.samples), batch_size=self.batch, rank=trainer.global_rank, world=trainer.world_size
        )

    def reference(self):
        for start in range(0, self.train, 8):
            part = images(0, self.train)[start : start + 8]
            numbers = torch.arange(start, start + len(part))
            yield part, numbers, [f"train/{n}" for n in numbers.tolist()]

    def held_out(self, limit):
        if self.held:
            yield images(5000, self.held)[:limit], torch.arange(self.held)[:limit], []


class Listed(FlowDataModule):
    """The same as a data module of kinetic, whose images several processes share."""

    name = "listed"
    train_dataloader, val_dataloader = Data.train_dataloader, Data.val_dataloader

    def __init__(self, samples: int):
        super().__init__()
        self.samples, self.batch = samples, 3

    def load(self):
        pools = [(0, 20, "train"), (5000, 30, "held")]
        train, held = (ArrayPool(images(first, n), ids=[f"{name}/{i}" for i in range(n)]) for first, n, name in pools)
        return Source(train, held)


def trainer(folder: Path, *callbacks, steps: int = 8, every: int = 2, **options) -> Trainer:
    """A quiet trainer that validates every few steps."""
    settings = {
        "logger": MetricsCSV(folder),
        "max_steps": steps,
        "max_epochs": -1,
        "val_check_interval": every,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
    }
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **(settings | options))


def main(folder: str, world: str, kind: str) -> None:
    """Fit on some processes, seven samples, an onset at step 4; two of them keep the training images in a folder."""
    strategy = {"devices": 2, "strategy": "ddp"} if world == "2" else {}
    kept = {"cache_bytes": 0, "folder": f"{folder}-kept"} if world == "2" and kind == "listed" else {}
    fit = trainer(Path(folder), KPECallback(), MemorizationCallback(**kept), steps=6, **strategy)
    fit.fit(Scripted(copy_at=4, broken=(5,)), datamodule=Listed(7) if kind == "listed" else Data(samples=7))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
