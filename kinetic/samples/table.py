"""Samples as rows: seed, label, and a column for every number that was measured; in validation and sampling alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinetic.flow.trajectory import Trajectory
from kinetic.metrics.statistics import finite_mean

Array = NDArray[Any]
NO_LABEL = -1


class Column(NamedTuple):
    """What a column is: its unit, and the sign of its measure; None is no signal of copying."""

    unit: str = ""
    sign: int | None = 0


@dataclass(frozen=True)
class SampleTable:
    """One row a sample.

    Attributes:
        seeds: int64 [N].
        labels: int64 [N], -1 without.
        finite: bool [N], whether the sample and its energy are finite.
        nfe: int64 [N], network evaluations of the batch that the sample was drawn in.
        columns: {name: float64 [N]}, NaN where a number was not measured.
        kinds: what each column is.
        power: float32 [steps, n], ½‖v‖² at `times`, of the first n rows; n = N unless some were left out.
        times: float64 [steps].
    """

    seeds: Array
    labels: Array
    finite: Array
    nfe: Array
    columns: dict[str, Array]
    kinds: dict[str, Column]
    power: Array
    times: Array

    def __len__(self) -> int:
        return len(self.seeds)

    @classmethod
    def of(cls, drawn: Trajectory, seeds: Tensor, labels: Tensor | None = None) -> "SampleTable":
        """Take the rows of one batch off its trajectory, to the CPU."""
        columns = {name: _array(values).astype(np.float64) for name, values in drawn.columns.items()}
        finite = _array(drawn.x.flatten(1).isfinite().all(1))
        if "energy" in columns:
            finite = finite & np.isfinite(columns["energy"])
        known = torch.full_like(seeds, NO_LABEL) if labels is None else torch.as_tensor(labels)
        return cls(
            seeds=_array(seeds).astype(np.int64),
            labels=_array(known).astype(np.int64),
            finite=finite,
            nfe=np.full(len(seeds), drawn.nfe, np.int64),
            columns=columns,
            kinds={measure.name: Column(measure.unit, measure.sign) for measure in drawn.measures},
            power=_array(drawn.recordings["power"].float()) if "power" in drawn.recordings else _no_power(len(seeds)),
            times=_array(drawn.times) if "power" in drawn.recordings else np.empty(0),
        )

    @classmethod
    def join(cls, tables: "Sequence[SampleTable]", *, profiles: int | None = None) -> "SampleTable":
        """Put tables together: rows sorted by seed, each seed once, and columns that one table lacks NaN there.

        With `profiles` the power of about so many rows at least is kept, whole tables from the first on.
        """
        names = list(dict.fromkeys(name for table in tables for name in table.columns))
        joined = {name: np.concatenate([_column(table, name) for table in tables]) for name in names}
        fixed = ("seeds", "labels", "finite", "nfe")
        whole = {name: np.concatenate([getattr(table, name) for table in tables]) for name in fixed}
        seeds, first = np.unique(whole["seeds"], return_index=True)
        kept = list(tables) if profiles is None else _first(tables, profiles)
        times = _common_times([table.times for table in kept])
        power = np.concatenate([_at(times, table) for table in kept], axis=1)
        return cls(
            seeds=seeds,
            labels=whole["labels"][first],
            finite=whole["finite"][first],
            nfe=whole["nfe"][first],
            columns={name: values[first] for name, values in joined.items()},
            kinds={name: kind for table in tables for name, kind in table.kinds.items()},
            power=power[:, first] if len(kept) == len(tables) else power,
            times=times,
        )

    def rows(self, keep: Array) -> "SampleTable":
        """Some rows alone, bool [N] or row numbers; the power of all rows has to be there, or of none."""
        fixed = {name: getattr(self, name)[keep] for name in ("seeds", "labels", "finite", "nfe")}
        power = self.power[:, keep] if self.power.shape[1] else self.power
        return replace(self, **fixed, columns={n: v[keep] for n, v in self.columns.items()}, power=power)

    def finite_column(self, name: str) -> Array:
        """One column of the finite samples, without what was not measured, [n]."""
        values = self.columns[name][self.finite]
        return values[np.isfinite(values)]

    def mean(self, name: str) -> float:
        """Mean over `finite_column`; NaN where there is nothing."""
        return finite_mean(self.finite_column(name)) if name in self.columns else float("nan")

    def with_columns(self, columns: dict[str, Array], kinds: dict[str, Column] | None = None) -> "SampleTable":
        """Add columns [N]."""
        known = {name: Column(sign=None) for name in columns} | (kinds or {})
        return replace(self, columns=self.columns | columns, kinds=self.kinds | known)

    def without_power(self) -> "SampleTable":
        """Leave the profiles out, to save memory."""
        return replace(self, power=_no_power(0), times=np.empty(0))


def _array(values: Tensor) -> Array:
    return values.detach().cpu().numpy()


def _no_power(count: int) -> Array:
    return np.empty((0, count), np.float32)


def _column(table: SampleTable, name: str) -> Array:
    return table.columns[name] if name in table.columns else np.full(len(table), np.nan)


def _first(tables: Sequence[SampleTable], rows: int) -> list[SampleTable]:
    kept: list[SampleTable] = []
    for table in tables:
        if kept and sum(map(len, kept)) >= rows:
            break
        kept.append(table)
    return kept


def _common_times(grids: list[Array]) -> Array:
    """The grid of the batches if they share one, else, as after an adaptive method, 100 equal steps."""
    if all(len(grid) == len(grids[0]) and np.array_equal(grid, grids[0]) for grid in grids):
        return grids[0].astype(np.float64)
    return np.linspace(0, 1, 100, endpoint=False)


def _at(times: Array, table: SampleTable) -> Array:
    """Power [steps, B] of a batch at `times`, interpolated where its own steps differ."""
    own, power = table.times, table.power
    if len(own) == len(times) and np.array_equal(own, times):
        return power
    if not len(own):
        return np.full((len(times), power.shape[1]), np.nan, np.float32)
    return np.stack([np.interp(times, own, row) for row in power.T], axis=1).astype(np.float32)
