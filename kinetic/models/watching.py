"""What is measured of a sampling loop that somebody else runs: told of each evaluation of the field, as it comes.

The measures are those of `integrate`, and so is the result, a `Trajectory`, which can be read at any time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kinetic.flow.energy import STANDARD
from kinetic.flow.measures import Arrival, Evaluation, Measure, Rate, Recording, checked
from kinetic.flow.trajectory import Trajectory


class Watch:
    """The steps of one loop from noise towards data, and what has accrued on them.

    `begin` opens a step by its first evaluation, and `close` ends it by a second one, at its end: its integrals are
    then those of the trapezoid. A step that is not closed is measured by the left rule. Energies split at `tau`.
    """

    def __init__(self, *, tau: float, measures: Sequence[Measure] = STANDARD) -> None:
        checked(tuple(measures))
        self.tau, self.measures = tau, tuple(measures)
        self.rates = tuple(measure for measure in self.measures if isinstance(measure, Rate))
        self.states: dict[str, Any] = dict.fromkeys((measure.name for measure in self.measures), None)
        self.nfe = 0
        self.starts: list[float] = []  # of the steps
        self.t = 0.0  # where the last step ends
        self.x: Tensor | None = None  # [B, ...], where it has led to
        self._sums: Tensor | None = None  # of the closed steps, [rates, B]
        self._early: Tensor | None = None  # the part of them before τ
        self._open: tuple[float, float, Tensor] | None = None  # start, end and rates [rates, B] of the open step

    def begin(self, now: Evaluation, t_next: float) -> None:
        """Open a step from the time of `now`, at which the field was evaluated, to `t_next`."""
        self._settle(None)
        self._look(now)
        self.starts.append(now.t)
        for measure in self.measures:
            self.states[measure.name] = measure.step(self.states[measure.name], now, t_next - now.t)
        self._open, self.t = (now.t, t_next, self._accruing(now)), t_next

    def close(self, now: Evaluation, *, counted: bool = True) -> None:
        """End the open step by an evaluation at its end; not `counted` is one that will begin a step as well."""
        if counted:
            self._look(now)
        self._settle(self._accruing(now))

    def _look(self, now: Evaluation) -> None:
        self.nfe += 1
        for measure in self.measures:
            self.states[measure.name] = measure.look(self.states[measure.name], now)

    def _accruing(self, now: Evaluation) -> Tensor:
        rows = [rate.rate(now) for rate in self.rates]
        return torch.stack(rows) if rows else now.x.new_empty((0, now.x.shape[0]))

    def _settle(self, at_end: Tensor | None) -> None:
        """Add the open step, if there is one, to the sums."""
        self._sums, self._early = self._with_open(at_end)
        self._open = None

    def _with_open(self, at_end: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """The sums and their part before τ, with the open step."""
        if self._open is None:
            return self._sums, self._early
        start, end, rates = self._open
        change = (end - start) * (rates if at_end is None else (rates + at_end) / 2)
        share = min(max((self.tau - start) / (end - start), 0.0), 1.0) if end > start else 1.0
        before = share * change
        if self._sums is None or self._early is None:
            return change, before
        return self._sums + change, self._early + before

    def trajectory(self) -> Trajectory:
        """Return what was measured up to here."""
        sums, early = self._with_open()
        assert self.x is not None  # the loop has taken a step
        assert sums is not None
        assert early is not None
        x = self.x if self.x.dtype == torch.float64 else self.x.float()
        end = Arrival(self.t, x, self._named(sums), self._named(early))
        found = {measure.name: measure.result(self.states[measure.name], end) for measure in self.measures}
        columns = tuple(measure for measure in self.measures if not isinstance(measure, Recording))
        return Trajectory(
            x=end.x,
            nfe=self.nfe,
            times=torch.tensor(self.starts, dtype=torch.float64),
            columns={measure.name: found[measure.name] for measure in columns},
            recordings={m.name: found[m.name] for m in self.measures if isinstance(m, Recording)},
            measures=columns,
        )

    def _named(self, rows: Tensor) -> dict[str, Tensor]:
        return {rate.name: row for rate, row in zip(self.rates, rows, strict=True)}
