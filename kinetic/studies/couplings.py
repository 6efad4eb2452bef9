"""Optimal transport against independent pairs of noise and images: two networks, the same seeds, few steps and many."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD
from kinetic.flow.straightness import Straightness, TransportEnergy
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.detection import mean_estimate
from kinetic.metrics.statistics import Estimate
from kinetic.models.opening import Origin
from kinetic.report.findings import Cell
from kinetic.samples.copying import copies_in
from kinetic.samples.table import Array, SampleTable
from kinetic.store.runs import subset_hash
from kinetic.store.settings import SavedConfig
from kinetic.studies.experiment import Batch
from kinetic.studies.qualities import Figures, Gathered, Judge, differences, judged_figures
from kinetic.studies.setting import Setting
from kinetic.studies.subject import Drawing, Subject
from kinetic.studies.trainings import Training
from kinetic.training.couplings import COUPLINGS

INDEPENDENT, OT = COUPLINGS
MEASURES = (*STANDARD, Straightness(), TransportEnergy())


def training_with(config: SavedConfig, coupling: str, folder: Path, *, steps: int) -> Training:
    """The recipe `config` with another coupling and nothing to watch it, for `steps` steps."""
    made = deepcopy(config.values)
    made["model"] = {**(made.get("model") or {}), "coupling": coupling, "samples": {"num": 0}}
    made["trainer"] = {**made["trainer"], "max_steps": steps, "callbacks": None, "limit_val_batches": 0}
    made["run"] = {"name": None, "wandb": "disabled", "checkpoint_every": 500, "keep_every": None}
    return Training(folder=folder / f"coupling={coupling},steps={steps}", config=made)


def check_pair(found: Mapping[str, Origin]) -> None:
    """Raise KineticError unless there is a network of either coupling, and both make samples of one shape."""
    if set(found) != {INDEPENDENT, OT}:
        raise KineticError(
            f"both runs pair noise and images alike ({', '.join(found)}); name one of the other coupling"
        )
    one, other = (found[name].field for name in (INDEPENDENT, OT))
    if (one.shape, one.num_classes) != (other.shape, other.num_classes):
        raise KineticError(f"the runs make samples of shapes {one.shape} and {other.shape}, or know other classes")


def same_images(origins: Iterable[Origin]) -> bool:
    """Whether all runs wrote down the same training images."""
    hashes = {subset_hash(one.run) for one in origins}
    return len(hashes) == 1 and None not in hashes


def settings_of(subject: Subject, found: Mapping[str, Origin], few: Sequence[int]) -> dict[str, Setting]:
    """Each network at each number of steps; the most steps come first."""
    return {
        name_of(coupling, steps): Setting(sampler=replace(subject.sampler, steps=steps), origin=origin)
        for coupling, origin in found.items()
        for steps in sorted(few, reverse=True)
    }


def name_of(coupling: str, steps: int) -> str:
    """What a setting is called."""
    return f"{coupling} {steps}"


class Residuals:
    """How far each sample is from that of the same seed and network by the most steps, batch by batch."""

    def __init__(self, few: Sequence[int]) -> None:
        self.few = few
        self.found: dict[str, list[Tensor]] = {}

    def take(self, batch: Batch, images: dict[str, Tensor]) -> None:
        """Take in the samples of all settings."""
        for coupling in COUPLINGS:
            finest = images[name_of(coupling, max(self.few))]
            for name in (name_of(coupling, steps) for steps in self.few):
                self.found.setdefault(name, []).append((images[name] - finest).flatten(1).norm(dim=1))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was found of every setting: tables, residuals [N], quality where it was judged, and why it was not."""

    few: Sequence[int]
    tables: Mapping[str, SampleTable]
    residual: Mapping[str, Array]
    figures: Figures | None
    missing: Sequence[str] = ()

    def gap(self, column: str, steps: int) -> Estimate:
        """A column of samples by optimal transport less that by independent pairs, over the same seeds."""
        one, other = (self.tables[name_of(c, steps)].columns[column] for c in (OT, INDEPENDENT))
        return mean_estimate(one - other)

    def fd_gap(self, steps: int) -> Estimate | None:
        """The same of the Fréchet distance; None without quality."""
        if self.figures is None:
            return None
        found = differences(self.figures[name_of(OT, steps)], self.figures[name_of(INDEPENDENT, steps)])["fd"]
        return Estimate(found.difference, found.low, found.high)


def compared(
    drawing: Drawing, few: Sequence[int], *, training_set: TrainingSet | None, judge: Judge | None
) -> Compared:
    """Go through what was drawn once."""
    residuals, gathered = Residuals(few), None if judge is None else Gathered(judge)
    files = [nullcontext(residuals.take), *([] if gathered is None else [nullcontext(gathered.take)])]
    tables = drawing.collect(training_set=training_set, files=files)
    figures, missing = None, list[str]()
    try:
        figures = None if gathered is None else judged_figures(gathered.features(), gathered.judge.real)
    except KineticError as error:
        missing.append(str(error))
    residual = {name: torch.cat(parts).double().numpy() for name, parts in residuals.found.items()}
    return Compared(few=few, tables=tables, residual=residual, figures=figures, missing=missing)


def rows_of(found: Compared) -> list[dict[str, Cell]]:
    """A row for each coupling and number of steps, few steps first."""
    return [_row(found, coupling, steps) for steps in sorted(found.few) for coupling in COUPLINGS]


def _row(found: Compared, coupling: str, steps: int) -> dict[str, Cell]:
    name = name_of(coupling, steps)
    table = found.tables[name]
    row: dict[str, Cell] = {"coupling": coupling, "steps": steps}
    row |= {one: mean_estimate(table.columns[one]) for one in ("straightness", "energy", "transport_energy")}
    row["energy_over_transport"] = float(np.nanmean(table.columns["energy"] / table.columns["transport_energy"]))
    row["residual"] = mean_estimate(found.residual[name])
    if (copies := copies_in(table)) is not None:
        row["F_mem"] = Estimate(copies.f_mem, copies.low, copies.high)
    if found.figures is not None:
        row |= {one: figure.figure for one, figure in found.figures[name].items()}
        row["fd_from_independent"] = found.fd_gap(steps) if coupling == OT else None
    return row


def series_of(found: Compared, name: str) -> dict[str, list[tuple[int, Any]]]:
    """Figures of one kind over steps, by coupling."""
    rows = rows_of(found)
    return {
        coupling: [(int(str(row["steps"])), row.get(name)) for row in rows if row["coupling"] == coupling]
        for coupling in COUPLINGS
    }
