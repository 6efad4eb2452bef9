"""The same seeds under several settings, as rows: energies, copies with their interval, and how far samples moved."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.statistics import Signal, wilson
from kinetic.models.autoencoder import Decode
from kinetic.plots import compare_grid, save
from kinetic.samples.copying import copies_in, signals_of
from kinetic.samples.export import write_columns
from kinetic.samples.pictures import as_shown
from kinetic.samples.table import SampleTable
from kinetic.store.files import write_text
from kinetic.studies.experiment import Batch, Take
from kinetic.text import aligned, cell

COLUMNS = 10  # seeds in the picture


@dataclass(frozen=True)
class Figure:
    """A further number of a setting, with its 95 % interval where it has one."""

    value: float
    low: float = math.nan
    high: float = math.nan
    share: bool = False  # shown in percent
    quiet: bool = False  # written, but not shown on a terminal

    def text(self) -> str:
        """As people read it."""
        scale, unit = (100, " %") if self.share else (1, "")
        value, low, high = (cell(scale * number, ".4g") for number in (self.value, self.low, self.high))
        return f"{value}{unit}" if math.isnan(self.low) else f"{value} ({low} to {high}){unit}"


@dataclass(frozen=True)
class Row:
    """One setting of a comparison; NaN where there is nothing to say.

    Attributes:
        setting: its name.
        n: samples, those that are not finite included.
        energy: mean over the finite samples, as are `field_energy` and `late_fraction`.
        f_mem: fraction of copies, with its 95 % interval `low` to `high`.
        residual: mean Euclidean distance from the same seeds under the first setting.
        more: further figures by name, which follow the others wherever rows are shown.
        verdict: what a control says about it.
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
    more: Mapping[str, Figure] = field(default_factory=dict)
    verdict: str = ""


FIELDS = tuple(name for name in Row.__dataclass_fields__ if name not in ("more", "verdict"))


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
        more=_figures(table),
    )


def _figures(table: SampleTable) -> dict[str, Figure]:
    """Evaluations of networks a sample, where any were drawn, and F_mem after cleaning, where it was looked for."""
    found = {"evaluations": Figure(float(table.nfe.mean()))} if table.nfe.any() else {}
    if (copied := table.columns.get("copied_cleaned")) is not None:
        count, total = int(copied.sum()), len(copied)
        found["f_mem_cleaned"] = Figure(count / total, *wilson(count, total), share=True)
    return found


def _names(rows: Sequence[Row]) -> list[str]:
    """Names of the further figures, in the order in which they appear."""
    return list(dict.fromkeys(name for row in rows for name in row.more))


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write compare.csv; a cell is empty where there is nothing to say.

    A further figure has columns NAME, NAME_low and NAME_high.
    """
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in FIELDS}
    for name in _names(rows):
        figures = [row.more.get(name, Figure(math.nan)) for row in rows]
        for end in ("value", "low", "high"):
            columns[name if end == "value" else f"{name}_{end}"] = [getattr(figure, end) for figure in figures]
    write_columns(path, {**columns, "verdict": [row.verdict for row in rows]})


def table_of(rows: list[Row]) -> str:
    """Lay the rows out for a terminal."""
    head = ["setting", "energy", "of the field", "late part", "F_mem", "95 % interval", "moved from off"]
    names = [name for name in _names(rows) if not any(row.more[name].quiet for row in rows if name in row.more)]
    head += [name.replace("_", " ").replace("f mem", "F_mem") for name in names]
    body = [
        [
            row.setting,
            cell(row.energy, ".4g"),
            cell(row.field_energy, ".4g"),
            cell(100 * row.late_fraction, ".1f", " %"),
            cell(100 * row.f_mem, ".1f", " %"),
            "-" if math.isnan(row.low) else f"{100 * row.low:.1f} to {100 * row.high:.1f} %",
            cell(row.residual, ".3g"),
            *(row.more[name].text() if name in row.more else "-" for name in names),
        ]
        for row in rows
    ]
    return aligned([head, *body])


@contextmanager
def comparison_picture(path: Path, decode: Decode | None = None) -> Iterator[Take]:
    """Draw the first seeds under every setting, drawn or derived, one row a setting; latents are decoded."""
    shown: dict[str, Tensor] = {}
    seeds: list[int] = []

    def take(batch: Batch, images: dict[str, Tensor]) -> None:
        missing = COLUMNS - len(seeds)
        if missing > 0:
            seeds.extend(next(iter(batch.values())).table.seeds.tolist()[:missing])
            shown.update({name: torch.cat([shown.get(name, x[:0]), x[:missing]]) for name, x in images.items()})

    yield take
    if next(iter(shown.values())).ndim == 4:
        save(compare_grid({name: as_shown(x, decode) for name, x in shown.items()}, seeds=seeds), path)


def write_copies(folder: Path, tables: Mapping[str, SampleTable], training_set: TrainingSet) -> dict[str, list[Signal]]:
    """Write memorization.json (rule, null, F_mem of each setting) and signals.csv (what picks out the copies).

    Returns the signals of each setting.
    """
    found = {name: result._asdict() for name, table in tables.items() if (result := copies_in(table)) is not None}
    for figures in found.values():
        figures.pop("table")
    null = None if training_set.null is None else asdict(training_set.null)
    rule = {"threshold": training_set.threshold, "space": training_set.view.space}
    record = {**rule, "null": null, "settings": found}
    write_text(folder / "memorization.json", json.dumps(record, indent=2) + "\n")
    signals = {name: signals_of(table) for name, table in tables.items()}
    every = [(name, signal) for name, found_in in signals.items() for signal in found_in]
    columns: dict[str, list[Any]] = {"setting": [name for name, _ in every], "signal": [s.name for _, s in every]}
    columns |= {key: [getattr(s, key) for _, s in every] for key in ("sign", "rho", "auroc", "n", "copies")}
    write_columns(folder / "signals.csv", columns)
    return signals
