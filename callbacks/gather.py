"""The samples of one validation, gathered over all processes: one row a seed, as one process would have them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.integration import Trajectory

from .telling import say

ENERGIES = ("energy", "field_energy", "early", "late", "late_fraction", "final_power", "drift")
NAMES = (*ENERGIES, "response", "per_dim_energy")
Array = NDArray[Any]


@dataclass(frozen=True)
class Table:
    """One row a sample, sorted by seed, each seed once; the same on every process."""

    seeds: Array  # [N] int64
    labels: Array  # [N] int64, -1 without labels
    finite: Array  # [N] bool, whether the sample and its energy are finite
    columns: dict[str, Array]  # each of NAMES, [N] float64; NaN where it was not measured
    power: Array  # [steps, N] float32, ½‖v‖² at `times`
    times: Array  # [steps] float64

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass
class Collector:
    """Collects what the validation steps of this process return; `images` says whether to keep the samples too."""

    images: torch.dtype | None = None
    parts: list[dict[str, Array]] = field(default_factory=list)
    pictures: dict[int, Tensor] = field(default_factory=dict)
    error: str | None = None
    told: set[str] = field(default_factory=set)

    def reset(self) -> None:
        """Forget everything, as before a validation."""
        self.parts, self.pictures, self.error = [], {}, None

    def add(self, outputs: Any, batch: Any) -> None:
        """Take in the outputs of one validation step, if they are a Trajectory of {"seeds": int64 [B], ...}."""
        if not isinstance(outputs, Trajectory):
            return
        if not isinstance(batch, Mapping) or "seeds" not in batch:
            self.error = 'the validation step returned a Trajectory, but its batch has no entry "seeds"'
            return
        seeds = torch.as_tensor(batch["seeds"]).cpu()
        if seeds.shape != outputs.x.shape[:1]:
            self.error = f"{len(outputs.x)} samples came with seeds of shape {tuple(seeds.shape)}; pass one a sample"
            return
        self.parts.append(_part(outputs, seeds, batch.get("labels")))
        if self.images is not None:
            kept = outputs.x.detach().to("cpu", self.images)
            self.pictures.update(zip(seeds.tolist(), kept, strict=True))

    def table(self) -> Table | None:
        """Gather the rows of all processes (all must call this), None without any; ValueError where one failed."""
        gathered = gather((self.error, self.parts))
        errors = [error for error, _ in gathered if error]
        if errors:
            raise KineticError(errors[0])
        parts = [part for _, theirs in gathered for part in theirs if len(part["seeds"])]
        return _merge(parts) if parts else None

    @property
    def holds_points(self) -> bool:
        """Whether the samples kept here are points [D], not images."""
        return any(picture.ndim == 1 for picture in self.pictures.values())

    def select(self, seeds: Array) -> Tensor:
        """Gather the pictures of some seeds -> [n, ...] in their order (all processes must call this)."""
        wanted = [int(seed) for seed in seeds]
        found: dict[int, Tensor] = {}
        for part in gather({seed: self.pictures[seed].clone() for seed in wanted if seed in self.pictures}):
            found = part | found
        return torch.stack([found[seed] for seed in wanted])


def gather(value: Any) -> list[Any]:
    """Collect a picklable value of every process, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def _part(drawn: Trajectory, seeds: Tensor, labels: Any) -> dict[str, Array]:
    """Bring one batch to the CPU as float64 columns, a row a sample."""
    columns = {name: getattr(drawn, name) for name in NAMES if name != "per_dim_energy"}
    columns["per_dim_energy"] = drawn.energy / max(drawn.x[0].numel() if len(drawn.x) else 1, 1)
    missing = torch.full(seeds.shape, torch.nan)
    finite = drawn.x.detach().flatten(1).isfinite().all(1) & drawn.energy.isfinite()
    known = torch.full_like(seeds, -1) if labels is None else torch.as_tensor(labels)
    rows = {name: missing if value is None else value for name, value in columns.items()}
    rows = {name: value.detach().cpu().double() for name, value in rows.items()}
    whole = {"seeds": seeds, "labels": known, "finite": finite, **rows, "times": drawn.times}
    arrays = {name: value.detach().cpu().numpy() for name, value in whole.items()}
    return arrays | {"power": drawn.power.detach().float().cpu().numpy()}


def _merge(parts: list[dict[str, Array]]) -> Table:
    times = _common_times([part["times"] for part in parts])
    power = np.concatenate([_at(times, part) for part in parts], axis=1)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ("seeds", "labels", "finite", *NAMES)}
    seeds, first = np.unique(joined["seeds"], return_index=True)
    columns = {name: joined[name][first] for name in NAMES}
    return Table(seeds, joined["labels"][first], joined["finite"][first], columns, power[:, first], times)


def _common_times(grids: list[Array]) -> Array:
    """The grid of the batches if they share one, else, as after an adaptive method, 100 equal steps."""
    if all(len(grid) == len(grids[0]) and np.array_equal(grid, grids[0]) for grid in grids):
        return grids[0].astype(np.float64)
    return np.linspace(0, 1, 100, endpoint=False)


def _at(times: Array, part: dict[str, Array]) -> Array:
    """Power [steps, B] of a batch at `times`, interpolated where its own steps differ."""
    own, power = part["times"], part["power"]
    if len(own) == len(times) and np.array_equal(own, times):
        return power
    if not len(own):
        return np.full((len(times), power.shape[1]), np.nan, np.float32)
    return np.stack([np.interp(times, own, row) for row in power.T], axis=1).astype(np.float32)


def validation_table(trainer: Trainer, module: LightningModule, collector: Collector, who: str) -> Table | None:
    """Gather what a validation drew (all processes must call this); None, and one line why, if there is nothing."""
    try:
        table, trouble = collector.table(), "no validation step returned a Trajectory"
    except ValueError as error:
        table, trouble = None, str(error)
    expected = getattr(getattr(module, "samples", None), "num", None)
    if expected == 0:
        trouble = "the number of samples is 0 (model.samples.num)"
    if table is not None and isinstance(expected, int) and len(table) < expected:
        trouble = f"this validation drew {len(table)} of {expected} samples"
    elif table is not None:
        return table
    if trouble not in collector.told:
        collector.told.add(trouble)
        say(trainer, f"{who}: {trouble}; training goes on" + (" without it" if table is None else ""))
    return table
