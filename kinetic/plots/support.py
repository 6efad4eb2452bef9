"""Energy against how well training images support a sample, and how closely the two go together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kinetic.plots.style import BLUE, GREEN, MUTED, ORANGE, PURPLE, VERMILION, as_array, notice, panels, plain, style
from kinetic.units import energy_label

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)


@style
def support_figure(energy: Any, supports: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> Figure:
    """Draw energies [N] over each kind of support [N], a panel for each, with what `titles` says of it."""
    figure, axes = panels(1, max(len(supports), 1), height=3.6, sharey=True)
    for one, (name, values) in zip(axes, supports.items(), strict=False):
        x, y = as_array(values), as_array(energy)
        keep = np.isfinite(x) & np.isfinite(y)
        one.scatter(x[keep], y[keep], s=9, color=BLUE, alpha=0.45, linewidth=0)
        one.set_xlabel(name)
        one.set_title((titles or {}).get(name, ""), loc="left", fontsize=9)
        if not keep.any():
            notice(one, "no finite samples")
    axes[0].set_ylabel(energy_label("\n"))
    return figure


@style
def correlations_figure(found: Mapping[str, Mapping[str, Mapping[str, Any]]], *, label: str) -> Figure:
    """Draw correlations with their intervals: a panel a kind of support, a row a measure, a colour a feature space.

    `found` is {support: {space: {measure: (value, low, high)}}}.
    """
    measures = list(dict.fromkeys(m for spaces in found.values() for rows in spaces.values() for m in rows))
    figure, axes = panels(1, max(len(found), 1), height=1.5 + 0.36 * max(len(measures), 1), sharey=True)
    if not measures:
        notice(axes[0], "no correlation is defined")
        return figure
    for one, (support, spaces) in zip(axes, found.items(), strict=True):
        for number, (space, rows) in enumerate(spaces.items()):
            values = np.array([rows.get(name, (np.nan,) * 3) for name in measures], np.float64)
            place = np.arange(len(measures)) + 0.6 * ((number + 0.5) / len(spaces) - 0.5)
            how: Any = {"fmt": "o", "markersize": 4, "elinewidth": 1.2, "color": COLOURS[number % len(COLOURS)]}
            spread = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
            one.errorbar(values[:, 0], place, xerr=np.maximum(spread, 0), label=plain(space, 24), **how)
        one.axvline(0, color=MUTED, linewidth=1, label="_none")
        one.set(xlabel=label, xlim=(-1, 1), yticks=range(len(measures)), yticklabels=[plain(m, 30) for m in measures])
        one.set_title(support, loc="left", fontsize=9)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure
