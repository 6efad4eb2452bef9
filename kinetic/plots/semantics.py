"""How clearly samples show their class, from the lowest to the highest energies."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kinetic.plots.style import BLUE, MUTED, notice, panels, style


@style
def deciles_figure(found: Mapping[str, Any], *, means: Mapping[str, float] | None = None) -> Figure:
    """Draw means with intervals {name: [deciles, 3] of value, low, high}, a panel each, and the mean of all samples."""
    figure, axes = panels(1, max(len(found), 1), height=3.4)
    for one, (name, rows) in zip(axes, found.items(), strict=False):
        values = np.asarray(rows, np.float64).reshape(-1, 3)
        if not np.isfinite(values[:, 0]).any():
            notice(one, "no finite samples")
            continue
        at = np.arange(1, len(values) + 1)
        spread = np.maximum([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0)
        one.errorbar(at, values[:, 0], yerr=spread, fmt="o-", color=BLUE, markersize=4, elinewidth=1.2, label=name)
        if means and name in means:
            one.axhline(means[name], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="_mean")
        one.set(xlabel=f"part of the samples by energy, {len(values)} the highest", ylabel=name, xticks=at)
    return figure
