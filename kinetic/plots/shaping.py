"""What shaping does along its axes: copies and quality against its strength or its time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kinetic.plots.style import BLUE, MUTED, VERMILION, as_array, notice, panels, style

NAMES = {"alpha": "launch α₀", "beta": "landing β₀", "tau": "τ", "steps": "steps"}


@dataclass(frozen=True)
class AxisPoint:
    """One setting on an axis: its value, F_mem with interval, F_mem of equal noise, and Fréchet distance."""

    value: float
    f_mem: float
    low: float
    high: float
    noise: float
    fd: float


@style
def axes_figure(found: Mapping[str, Sequence[AxisPoint]], *, off: tuple[float, float]) -> Figure:
    """Draw F_mem (above, with the same samples moved as far by noise) and Fréchet distance (below) along each axis.

    `off` are both of the unshaped flow.
    """
    shown = {name: points for name, points in found.items() if len(points) > 1}
    if not shown:
        figure, (empty,) = panels(1)
        notice(empty, "no axis with two settings")
        return figure
    figure, axes = panels(2, len(shown), height=5.2, sharey="row", sharex="col")
    for column, (name, points) in enumerate(shown.items()):
        above, below = axes[column], axes[len(shown) + column]
        x, f_mem, noise = ([getattr(p, n) for p in points] for n in ("value", "f_mem", "noise"))
        spread = [[p.f_mem - p.low for p in points], [p.high - p.f_mem for p in points]]
        above.errorbar(x, f_mem, yerr=as_array(spread), fmt="o-", color=VERMILION, markersize=4, label="shaped")
        above.plot(x, noise, "s--", color=BLUE, markersize=4, label="unshaped, moved as far by noise")
        below.plot(x, [p.fd for p in points], "o-", color=VERMILION, markersize=4)
        below.set_xlabel(NAMES.get(name, name))
        above.yaxis.set_major_formatter(PercentFormatter(1))
        for place, value in ((above, off[0]), (below, off[1])):
            place.axhline(value, color=MUTED, linewidth=0.9, label="unshaped" if place is above else None)
    axes[0].set_ylabel("F_mem, 95 % interval")
    axes[len(shown)].set_ylabel("Fréchet distance")
    axes[0].legend()
    return figure
