"""The kinetic path energies of every validation's samples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.ranks import gather_notes
from kinetic.samples.pictures import as_shown
from kinetic.samples.summary import summary
from kinetic.samples.table import NO_LABEL, SampleTable
from kinetic.store.tables import StepTable
from kinetic.units import energies_of

from .collecting import Monitor, collector_of, validation_table
from .decoding import decode_of
from .grids import by_energy, drawable, picture_path, write_grid
from .telling import attempt, fitting, log_media, log_numbers, monitoring, open_table, say_trouble

COLUMNS = {  # of the tables, at least
    "kpe": ("epoch", "seed", "label", "energy"),
    "profiles": ("epoch", "t", "mean", "q25", "q75"),
}

MOST_POINTS = 2000  # of a toy model, in one scatter


class KPECallback(Monitor):
    """Logs the energies of the trajectories that the validation steps return, and draws their samples.

    Any LightningModule whose `validation_step` returns a `Trajectory` for batches {"seeds": int64 [B], "labels": int64
    [B] or none} will do. Writes kpe.parquet, profiles.parquet and samples/step_*.png into the trainer's
    `default_root_dir`, and kpe/* to its loggers. Results do not depend on batches, processes or other callbacks.

    Args:
        bins: of the histogram.
        lowest_highest: how many samples of the lowest and of the highest energy are drawn.
        between: how many samples are drawn between these, evenly spaced.
        media_every: draw and log pictures at every so many validations; 0 never.
    """

    def __init__(self, *, bins: int = 64, lowest_highest: int = 10, between: int = 40, media_every: int = 1) -> None:
        if not 1 <= bins <= 512:
            raise KineticError(f"bins must lie in 1 to 512, which is what Weights & Biases takes, got {bins}")
        for name, value in (("lowest_highest", lowest_highest), ("between", between), ("media_every", media_every)):
            if value < 0:
                raise KineticError(f"{name} must not be negative, got {value}")
        self.bins, self.lowest_highest, self.between, self.media_every = bins, lowest_highest, between, media_every
        self.validations = 0
        self.table: SampleTable | None = None  # of the last validation
        self._files: dict[str, StepTable] = {}
        self._due = False

    @property
    def state_key(self) -> str:
        """Different settings, different state."""
        return self._generate_state_key(
            bins=self.bins,
            lowest_highest=self.lowest_highest,
            between=self.between,
            media_every=self.media_every,
        )

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, which decides which ones are drawn."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self.validations = int(state_dict["validations"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the tables, without the rows of steps that are trained again."""
        self._files = {}
        if trainer.is_global_zero:
            attempt(trainer, "reading the energies so far", lambda: self._open(trainer))

    def _open(self, trainer: Trainer) -> None:
        folder = Path(trainer.default_root_dir)
        for name, columns in COLUMNS.items():
            path = folder / f"{name}.parquet"
            self._files[name] = open_table(trainer, path, columns=columns, expected=self.validations > 0)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for the samples where they are to be drawn."""
        self._due = self.media_every > 0 and self.validations % self.media_every == 0 and fitting(trainer)
        if self._due:
            collector_of(trainer).want(torch.float16)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather, log and write."""
        if not monitoring(trainer):
            return
        table = self.table = validation_table(trainer, pl_module, "kinetic energies")
        if table is None:
            return
        log_numbers(trainer, pl_module, summary(table))
        if fitting(trainer):
            self.validations += 1
            attempt(trainer, "writing the energies", lambda: self._write(trainer, pl_module, table))
            if self._due:
                self._show(trainer, table)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the samples go."""
        collector_of(trainer).reset()

    def _show(self, trainer: Trainer, table: SampleTable) -> None:
        kept = table.columns["energy"][table.finite]
        histograms = {"kpe/histogram": (kept, np.histogram_bin_edges(kept, self.bins))} if len(kept) else {}
        log_media(trainer, pictures=self._pictures(trainer, table), histograms=histograms)

    def _pictures(self, trainer: Trainer, table: SampleTable) -> dict[str, Path]:
        """Draw the samples (all processes call this); the path by logging key, empty if nothing was drawn.

        Latents are decoded where their autoencoder is at hand.
        """
        energy = np.where(table.finite, table.columns["energy"], np.nan)
        middle = MOST_POINTS if any(gather_notes(collector_of(trainer).holds_points)) else self.between
        rows = by_energy(energy, extremes=self.lowest_highest, middle=middle)
        if not len(rows):
            return {}
        samples: Tensor = collector_of(trainer).select(table.seeds[rows])
        path = picture_path(Path(trainer.default_root_dir), "samples", trainer.global_step)

        def draw() -> None:
            shown = as_shown(samples, decode_of(trainer))
            with energies_of(space_of_module(trainer.lightning_module)):
                write_grid(path, shown, table.seeds[rows], energy[rows], len(table))

        if not drawable(samples.shape) or not attempt(trainer, "drawing the samples", draw):
            return {}
        return {"kpe/samples": path}

    def _write(self, trainer: Trainer, module: LightningModule, table: SampleTable) -> None:
        if not self._files:
            self._open(trainer)
        step, epoch = trainer.global_step, trainer.current_epoch
        about = provenance(module) | {"columns": json.dumps(table.kinds)}
        rows = {"kpe": rows_of(table, epoch)}
        if len(table.times) and table.finite.any():
            rows["profiles"] = profile(table) | {"epoch": [epoch] * len(table.times)}
        for name, columns in rows.items():
            self._files[name].write(step, columns, about=about)
            say_trouble(trainer, self._files[name])


def rows_of(table: SampleTable, epoch: int) -> dict[str, Any]:
    """Columns of kpe.parquet: one row a sample."""
    labels = pa.array(table.labels, pa.int64(), mask=table.labels == NO_LABEL)
    columns = {name: values.astype(np.float32) for name, values in table.columns.items()}
    return {"epoch": [epoch] * len(table), "seed": table.seeds, "label": labels, **columns}


def profile(table: SampleTable) -> dict[str, Any]:
    """Columns of profiles.parquet: the field power ½‖v‖² over time, mean and quartiles of the finite samples."""
    power = table.power[:, table.finite].astype(np.float64)
    low, high = np.percentile(power, [25, 75], axis=1)
    return {"t": table.times, "mean": power.mean(axis=1), "q25": low, "q75": high}


def space_of_module(module: LightningModule) -> str | None:
    """What its samples are, as far as the module says."""
    found = getattr(getattr(module, "field", None), "space", None)
    return found if isinstance(found, str) else None


def provenance(module: LightningModule) -> dict[str, str]:
    """How the samples were drawn, as far as the module says: weights (ema or raw), precision, space, sampler."""
    samples, sampler = getattr(module, "samples", None), getattr(module, "sampler", None)
    known = {"weights": getattr(module, "weights", None), "precision": getattr(samples, "precision", None)}
    known["space"] = space_of_module(module)
    if sampler is not None and hasattr(sampler, "to_dict"):
        known["sampler"] = json.dumps(sampler.to_dict())
    return {key: str(value) for key, value in known.items() if value is not None}
