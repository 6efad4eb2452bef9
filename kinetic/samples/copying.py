"""Copies of training images among the samples of a table, and how well each of its columns picks them out."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kinetic.memorization.copies import MemorizationResult, summarize
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.statistics import Signal, signal_table
from kinetic.samples.table import Array, Column, SampleTable

SEARCHED = 2**28  # bytes of samples that are compared with the training set at a time

# What the search for copies adds to a table: distances to the nearest and second-nearest distinct training image.
KINDS = {
    "d1": Column("x", None),
    "d2": Column("x", None),
    "ratio": Column("", None),
    "copied": Column("", None),
    "neighbor": Column("index", None),
}


def with_copies(table: SampleTable, rows: Array) -> SampleTable:
    """Add what the search found for each sample, rows [N, 7] float64 of `memorization.copies` in the table's order."""
    result = summarize(torch.from_numpy(rows))
    if not np.array_equal(result.column("index").numpy(), table.seeds):
        raise ValueError("the rows belong to other seeds than the table's")
    columns = {name: result.column(name).numpy().astype(np.float64) for name in KINDS}
    return table.with_columns(columns, KINDS)


def with_cleaned_copies(table: SampleTable, rows: Array) -> SampleTable:
    """Add ratio_cleaned and copied_cleaned: what the search found for each sample after cleaning, rows [N, 7]."""
    result = summarize(torch.from_numpy(rows))
    columns = {f"{name}_cleaned": result.column(name).numpy().astype(np.float64) for name in ("ratio", "copied")}
    return table.with_columns(columns)


def copies_in(table: SampleTable) -> MemorizationResult | None:
    """F_mem of a table with its interval; None where copies were not looked for."""
    if "copied" not in table.columns:
        return None
    columns = {name: table.columns[name] for name in KINDS}
    order: Sequence[Array] = (
        table.seeds,
        columns["d1"],
        columns["d2"],
        columns["ratio"],
        columns["neighbor"],
        np.isfinite(columns["d1"]),
        columns["copied"],
    )
    return summarize(torch.from_numpy(np.stack([np.asarray(values, np.float64) for values in order], axis=1)))


def signals_of(table: SampleTable) -> list[Signal]:
    """Compare every measured column with d₁/d₂ and with the copies; empty where copies were not looked for."""
    if "copied" not in table.columns:
        return []
    ratio, copied = (torch.from_numpy(table.columns[name]) for name in ("ratio", "copied"))
    signs = {name: kind.sign for name, kind in table.kinds.items() if kind.sign is not None}
    known = {name: torch.from_numpy(table.columns[name]) for name in signs if np.isfinite(table.columns[name]).any()}
    return signal_table(known, ratio, copied.bool(), signs)


class CopySearch:
    """Compares samples with a training set, many at a time, since one that is read from disk is read each time."""

    def __init__(self, training_set: TrainingSet) -> None:
        self.training_set = training_set
        self.waiting: list[tuple[str, Tensor, Array]] = []
        self.bytes = 0  # of the samples that wait
        self.found: dict[str, list[Array]] = {}

    def add(self, setting: str, x: Tensor, seeds: Array) -> None:
        """Take in samples [B, ...] of a setting."""
        self.waiting.append((setting, x, seeds))
        self.bytes += x.nbytes
        if self.bytes >= SEARCHED:
            self._search()

    def rows(self, setting: str) -> Array:
        """What was found for all samples of a setting, [N, 7] float64, in the order in which they came."""
        self._search()
        return np.concatenate(self.found[setting])

    def _search(self) -> None:
        if not self.waiting:
            return
        numbers = torch.from_numpy(np.concatenate([seeds for _, _, seeds in self.waiting]))
        rows = self.training_set.measure(torch.cat([x for _, x, _ in self.waiting]), numbers).numpy()
        ends = np.cumsum([len(seeds) for _, _, seeds in self.waiting])[:-1]
        for (setting, _, _), part in zip(self.waiting, np.split(rows, ends), strict=True):
            self.found.setdefault(setting, []).append(part)
        self.waiting, self.bytes = [], 0
