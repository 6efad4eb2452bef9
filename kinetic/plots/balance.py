"""Charts of the energy balance: over training, and over the way from noise to data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinetic.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    VERMILION,
    as_array,
    finite,
    notice,
    panels,
    plain,
    step_axis,
    style,
    thin,
)
from kinetic.units import energy_label, energy_unit, power_label


@dataclass(frozen=True)
class BalanceCurves:
    """Energies at each validation, all [V], or powers at each time, all [T]; NaN where there is none.

    Attributes:
        at: steps, or times.
        power: of the generated samples.
        conditional: A, of straight lines from noise to held-out images.
        held_out: balance of held-out images.
        train: balance of training images.
        low: lower end of the interval of `power` less `held_out`, and `high` the upper one.
    """

    at: Any
    power: Any
    conditional: Any
    held_out: Any
    train: Any
    low: Any
    high: Any


@style
def balance_over_training(curves: BalanceCurves, *, onset: float | None = None) -> Figure:
    """Draw what samples spend and what images bear out over the steps, the gap filled; below, the excess."""
    figure, axes = panels(2, height=5.6, sharex=True)
    top, below = axes
    steps = as_array(curves.at)
    if not finite(curves.power).size:
        notice(top, "no energy balance")
        return figure
    _lines(top, curves, steps, marker="o")
    top.set_ylabel(energy_label("\n"))
    excess = as_array(curves.power) - as_array(curves.held_out)
    below.plot(steps, excess, color=VERMILION, marker="o", markersize=4, label="excess")
    below.fill_between(
        steps, as_array(curves.low), as_array(curves.high), color=VERMILION, alpha=0.18, linewidth=0, label="95 %"
    )
    below.axhline(0, color=MUTED, linewidth=1, label="_zero")
    below.set_ylabel(f"excess\n({energy_unit()})")
    below.legend(loc="upper left")
    step_axis(below, steps)
    if onset is not None:
        for one in axes:
            one.axvline(onset, color=INK, linestyle=(0, (4, 3)), linewidth=1.1, label="_onset")
        place: Any = {"ha": "center", "va": "bottom", "fontsize": 8.5, "transform": top.get_xaxis_transform()}
        top.text(onset, 1.02, f"onset by energy: step {onset:,.0f}", **place)
    figure.legend(*top.get_legend_handles_labels(), loc="outside right upper")
    return figure


@style
def balance_over_time(curves: Mapping[Any, BalanceCurves], *, most: int = 4) -> Figure:
    """Draw the same over t, a panel for each of at most `most` validations {step or name: curves}, on one scale."""
    rows = thin([(step, c) for step, c in curves.items() if finite(c.power).size], most)
    figure, axes = panels(max(len(rows), 1), height=1.2 + 2.0 * max(len(rows), 1), sharex=True)
    if not rows:
        notice(axes[0], "no energy balance over time")
        return figure
    tops = [finite(values) for _, c in rows for values in (c.power, c.held_out, c.train)]
    high, low = max(values.max() for values in tops if values.size), min(values.min() for values in tops if values.size)
    for one, (step, c) in zip(axes, rows, strict=True):
        _lines(one, c, as_array(c.at), marker="o")
        one.set_ylim(max(low, -0.25 * high), 1.1 * high)
        one.set_title(f"step {step:,}" if isinstance(step, int) else plain(step), loc="left", fontsize=9)
    axes[len(rows) // 2].set_ylabel(power_label())
    axes[-1].set(xlabel="t, from noise (0) to data (1)", xlim=(0, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _lines(axes: Axes, curves: BalanceCurves, at: Any, *, marker: str) -> None:
    power, held, train = (as_array(v) for v in (curves.power, curves.held_out, curves.train))
    how: Any = {"marker": marker, "markersize": 3.5}
    axes.plot(at, as_array(curves.conditional), color=MUTED, linewidth=1, label="A, straight lines")
    if np.isfinite(train).any():
        axes.plot(at, train, color=GREEN, label="balance of\ntraining images", **how)
    axes.plot(at, power, color=VERMILION, label="spent by samples", **how)
    axes.plot(at, held, color=BLUE, label="balance of\nheld-out images", **how)
    axes.fill_between(at, held, power, color=VERMILION, alpha=0.12, linewidth=0, label="_gap")
