"""What is done with a trajectory, of `integrate`, `draw` or a watched pipeline: a CSV, a picture, Weights & Biases."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kinetic.errors import KineticError
from kinetic.flow.trajectory import Trajectory
from kinetic.plots import energies_figure, save
from kinetic.samples.export import write_csv
from kinetic.samples.summary import summary
from kinetic.samples.table import SampleTable

BINS = 64


def to_csv(trajectory: Trajectory, path: str | os.PathLike[str], *, seeds: Sequence[int] | None = None) -> Path:
    """Write one row a sample with all its numbers; `seeds` are those it was drawn from (None: counted from 0)."""
    target = Path(path)
    write_csv(target, {"samples": _table(trajectory, seeds)})
    return target


def power_picture(
    trajectory: Trajectory, path: str | os.PathLike[str], *, tau: float | None = 0.6, title: str = ""
) -> Path:
    """Draw the energies and the power over time to a PNG, SVG or PDF; executed power where the gains are known."""
    return save(_figure(trajectory, tau, title), path)


def log_to_wandb(trajectory: Trajectory, run: Any = None, *, tau: float | None = 0.6) -> None:
    """Log the energies' moments, quantiles and histogram, and the picture, as `kpe/*` to a run of Weights & Biases.

    `run` is the one that `wandb.init()` began, unless it is passed. Raises KineticError where there is none.
    """
    import wandb

    run = wandb.run if run is None else run
    if run is None:
        raise KineticError("there is no run of Weights & Biases; call wandb.init() first, or pass run=")
    table = _table(trajectory, None)
    numbers: dict[str, Any] = dict(summary(table))
    values = table.finite_column("energy")
    if len(values):
        numbers["kpe/energy"] = wandb.Histogram(np_histogram=np.histogram(values, BINS))
    picture = io.BytesIO()
    _figure(trajectory, tau, "").savefig(picture, format="png")
    run.log({**numbers, "kpe/power_profile": wandb.Image(Image.open(picture))})


def _table(trajectory: Trajectory, seeds: Sequence[int] | None) -> SampleTable:
    count = trajectory.x.shape[0]
    if seeds is not None and len(seeds) != count:
        raise KineticError(f"seeds must be one for each of {count} samples, got {len(seeds)}")
    return SampleTable.of(trajectory, torch.as_tensor(range(count) if seeds is None else seeds))


def _figure(trajectory: Trajectory, tau: float | None, title: str) -> Any:
    table = _table(trajectory, None)
    gain = trajectory.recordings.get("gain")
    columns = (table.columns["energy"], table.columns["field_energy"])
    return energies_figure(*columns, table.times, table.power, tau=tau, gain=gain, title=title)
