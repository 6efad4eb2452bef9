"""Copies of training images among the samples of a table, and how well each of its columns picks them out."""

from collections.abc import Sequence

import numpy as np
import torch

from kinetic.memorization.copies import MemorizationResult, summarize
from kinetic.metrics.statistics import Signal, signal_table
from kinetic.samples.table import Array, Column, SampleTable

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
