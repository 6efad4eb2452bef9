"""The same seeds under several settings: a table, a picture and what the copies are."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.flow.shaping import PRESETS
from kinetic.memorization.copies import MemorizationResult
from kinetic.memorization.training_set import copies_among, index_of
from kinetic.metrics.reference import ReferenceIndex
from kinetic.plots import compare_grid, save
from kinetic.samples.drawing import Plan
from kinetic.samples.export import is_picture, write_energies
from kinetic.samples.figures import finite_column
from kinetic.store.files import write_text
from kinetic.studies.controls import noised
from kinetic.text import aligned, cell

COLUMNS = 10  # seeds in the picture


@dataclass(frozen=True)
class Row:
    """One setting of a comparison; NaN where there is nothing to say.

    Attributes:
        setting: its name.
        n: samples, those that are not finite included.
        energy: mean over the finite samples, as are `field_energy` and `late_fraction`.
        f_mem: fraction of copies, with its 95 % interval `low` to `high`.
        residual: mean Euclidean distance from the same seeds under `off`.
    """

    setting: str
    n: int
    energy: float
    field_energy: float
    late_fraction: float
    f_mem: float
    low: float
    high: float
    residual: float


FIELDS = tuple(Row.__dataclass_fields__)


def compare(
    folder: Path, plan: Plan, data: FlowDataModule | None, *, controls: bool, device: torch.device
) -> list[Row]:
    """Turn the parts of every setting of `plan` to files and rows; `off` comes first, F_mem needs the `data`."""
    write_energies(folder / "energies.csv", {name: plan.parts(name) for name in plan.settings})
    samples = {name: torch.cat([part.images() for part in plan.parts(name)]) for name in plan.settings}
    means = {name: _means(plan, name) for name in plan.settings}
    moved = {name: (x - samples["off"]).flatten(1).norm(dim=1) for name, x in samples.items()}
    if controls:
        for name in (name for name in plan.settings if name in PRESETS and name != "off"):
            key = f"off, noise as {name}"
            samples[key], moved[key] = noised(samples["off"], moved[name], plan.seeds), moved[name]
    reference = None if data is None else index_of(data, device)
    rows = [
        _row(name, x, moved[name], means.get(name, (math.nan,) * 3), plan, reference) for name, x in samples.items()
    ]
    write_rows(folder / "compare.csv", rows)
    if is_picture(samples["off"].shape[1:]) or samples["off"].ndim == 4:
        shown = {name: x[:COLUMNS] for name, x in samples.items()}
        save(compare_grid(shown, seeds=plan.seeds[:COLUMNS]), folder / "compare.png")
    return rows


def _means(plan: Plan, setting: str) -> tuple[float, float, float]:
    columns = []
    for name in ("energy", "field_energy", "late_fraction"):
        values = finite_column(plan, setting, name)
        columns.append(float(values.mean()) if values.size else math.nan)
    return columns[0], columns[1], columns[2]


def _row(
    name: str,
    x: Tensor,
    moved: Tensor,
    means: tuple[float, ...],
    plan: Plan,
    reference: ReferenceIndex | None,
) -> Row:
    found: MemorizationResult | None = None
    if reference is not None:
        found = copies_among(x, reference, plan.seeds)
    finite = moved[moved.isfinite()]
    return Row(
        setting=name,
        n=len(x),
        energy=means[0],
        field_energy=means[1],
        late_fraction=means[2],
        f_mem=math.nan if found is None else found.f_mem,
        low=math.nan if found is None else found.low,
        high=math.nan if found is None else found.high,
        residual=float(finite.mean()) if len(finite) else math.nan,
    )


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write compare.csv; a cell is empty where there is nothing to say."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in FIELDS])
    write_text(path, buffer.getvalue())


def _cell(value: str | int | float) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.9g}" if math.isfinite(value) else ""


def table(rows: list[Row]) -> str:
    """Lay the rows out for a terminal."""
    head = ["setting", "energy", "of the field", "late part", "F_mem", "95 % interval", "moved from off"]
    body = [
        [
            row.setting,
            cell(row.energy, ".4g"),
            cell(row.field_energy, ".4g"),
            cell(100 * row.late_fraction, ".1f", " %"),
            cell(100 * row.f_mem, ".1f", " %"),
            "-" if math.isnan(row.low) else f"{100 * row.low:.1f} to {100 * row.high:.1f} %",
            cell(row.residual, ".3g"),
        ]
        for row in rows
    ]
    return aligned([head, *body])
