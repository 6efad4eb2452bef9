"""What an integration returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from kinetic.flow.measures import Measure


@dataclass(frozen=True)
class Trajectory:
    """Where the samples arrived, and what was measured on the way.

    Columns and recordings can be read as attributes, too: `trajectory.energy` is `trajectory.columns["energy"]`.

    Attributes:
        x: final states [B, ...].
        nfe: evaluations of the velocity, for the whole batch; of a composed field those of each network count.
        times: where each step starts, float64 [steps] on the CPU (each accepted step of an adaptive method).
        columns: a number for each sample by the name of its measure, [B].
        recordings: what was recorded over time; `power`, [steps, B], is ½‖v‖² at the start of each step.
        measures: the measures behind the columns, which know unit and sign.
        path: states of the first n samples at `path_times`, [steps + 1, n, ...], if asked for.
    """

    x: Tensor
    nfe: int
    times: Tensor
    columns: Mapping[str, Tensor]
    recordings: Mapping[str, Tensor] = field(default_factory=dict)
    measures: tuple[Measure, ...] = ()
    path: Tensor | None = None
    path_times: Tensor | None = None

    def __getattr__(self, name: str) -> Tensor:
        """Look `name` up among the columns and recordings."""
        known: dict[str, Any] = {**self.__dict__.get("recordings", {}), **self.__dict__.get("columns", {})}
        if name in known:
            return known[name]
        raise AttributeError(f"{name!r} was not measured; there are {', '.join(known) or 'no measures'}")

    def with_column(self, measure: Measure, values: Tensor) -> "Trajectory":
        """Add a number for each sample, [B], that was found afterwards."""
        return replace(self, columns={**self.columns, measure.name: values}, measures=(*self.measures, measure))
