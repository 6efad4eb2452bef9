"""The same seeds under several settings, as rows: energies, copies with their interval, and how far samples moved."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kinetic.flow.shaping import PRESETS
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.statistics import Signal
from kinetic.plots import compare_grid, save
from kinetic.samples.copying import copies_in, signals_of
from kinetic.samples.table import SampleTable
from kinetic.store.files import write_text
from kinetic.studies.controls import noised
from kinetic.studies.experiment import Batch, Derive, Take
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
        residual: mean Euclidean distance from the same seeds under the first setting.
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


def noise_controls(settings: Sequence[str], *, first: str = "off") -> dict[str, Derive]:
    """For every shaped setting, the samples of `first` moved as far by noise, which is no shaping at all."""
    shaped = [name for name in settings if name in PRESETS and name != first]
    return {f"{first}, noise as {name}": partial(_as_far, first=first, name=name) for name in shaped}


def _as_far(
    images: dict[str, Tensor], moved: dict[str, Tensor], seeds: Sequence[int], *, first: str, name: str
) -> tuple[Tensor, Tensor]:
    return noised(images[first], moved[name], seeds), moved[name]


def rows_of(tables: Mapping[str, SampleTable]) -> list[Row]:
    """One row for each setting."""
    return [_row(name, table) for name, table in tables.items()]


def _row(name: str, table: SampleTable) -> Row:
    found = copies_in(table)
    return Row(
        setting=name,
        n=len(table),
        energy=table.mean("energy"),
        field_energy=table.mean("field_energy"),
        late_fraction=table.mean("late_fraction"),
        f_mem=math.nan if found is None else found.f_mem,
        low=math.nan if found is None else found.low,
        high=math.nan if found is None else found.high,
        residual=table.mean("moved"),
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


def table_of(rows: list[Row]) -> str:
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


@contextmanager
def comparison_picture(path: Path) -> Iterator[Take]:
    """Draw the first seeds under every setting, drawn or derived, one row a setting."""
    shown: dict[str, Tensor] = {}
    seeds: list[int] = []

    def take(batch: Batch, images: dict[str, Tensor]) -> None:
        missing = COLUMNS - len(seeds)
        if missing > 0:
            seeds.extend(next(iter(batch.values())).table.seeds.tolist()[:missing])
            shown.update({name: torch.cat([shown.get(name, x[:0]), x[:missing]]) for name, x in images.items()})

    yield take
    if next(iter(shown.values())).ndim == 4:
        save(compare_grid(shown, seeds=seeds), path)


def write_copies(folder: Path, tables: Mapping[str, SampleTable], training_set: TrainingSet) -> dict[str, list[Signal]]:
    """Write memorization.json (rule, null, F_mem of each setting) and signals.csv (what picks out the copies).

    Returns the signals of each setting.
    """
    found = {name: result._asdict() for name, table in tables.items() if (result := copies_in(table)) is not None}
    for figures in found.values():
        figures.pop("table")
    null = None if training_set.null is None else asdict(training_set.null)
    record = {"threshold": training_set.threshold, "null": null, "settings": found}
    write_text(folder / "memorization.json", json.dumps(record, indent=2) + "\n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["setting", "signal", "sign", "rho", "auroc", "n", "copies"])
    signals = {name: signals_of(table) for name, table in tables.items()}
    for name, found_in in signals.items():
        for s in found_in:
            numbers = [_cell(math.nan if value is None else value) for value in (s.rho, s.auroc)]
            writer.writerow([name, s.name, s.sign, *numbers, s.n, s.copies])
    write_text(folder / "signals.csv", buffer.getvalue())
    return signals
