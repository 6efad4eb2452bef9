"""Charts of two fields at the same states: powers over time, and how far apart they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kinetic.plots.style import BLUE, VERMILION, as_array, panels, plain, ramp, style
from kinetic.units import power_label

LEFT = "time left, 1 − t"


@style
def fields_over_time(times: Sequence[float], powers: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Draw powers [T] of a network and of the closed form, a panel for each kind of states, against the time left."""
    left = 1 - as_array(times)
    figure, axes = panels(1, max(len(powers), 1), height=3.8, sharey=True)
    for one, (name, (network, closed)) in zip(axes, powers.items(), strict=False):
        one.plot(left, as_array(closed), color=VERMILION, marker="o", markersize=3.5, label="closed form")
        one.plot(left, as_array(network), color=BLUE, marker="o", markersize=3.5, label="network")
        one.set(xscale="log", yscale="log", xlabel=LEFT)
        one.invert_xaxis()
        one.set_title(plain(name), fontsize=9)
    axes[0].set_ylabel(power_label())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@style
def field_distance(times: Sequence[float], panels_of: Mapping[str, Mapping[Any, Any]]) -> Figure:
    """Draw relative distances [T] over the time left: a panel for each kind of states, a line for each step or name."""
    left = 1 - as_array(times)
    figure, axes = panels(1, max(len(panels_of), 1), height=3.8, sharey=True)
    for one, (name, lines) in zip(axes, panels_of.items(), strict=False):
        for (label, values), colour in zip(lines.items(), ramp(len(lines)), strict=True):
            words = f"step {label:,}" if isinstance(label, int) else plain(label)
            one.plot(left, as_array(values), color=colour, marker="o", markersize=3, label=words)
        one.set(xscale="log", yscale="log", xlabel=LEFT)
        one.yaxis.set_minor_locator(NullLocator())
        one.invert_xaxis()
        one.set_title(plain(name), fontsize=9)
    axes[0].set_ylabel("distance ‖v − v*‖² / ‖v*‖²")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure
