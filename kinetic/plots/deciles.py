"""What samples are like from the lowest to the highest energies."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kinetic.plots.style import BLUE, MUTED, ORANGE, notice, panels, style


@style
def deciles_figure(
    found: Mapping[str, Any],
    *,
    means: Mapping[str, float] | None = None,
    shares: Collection[str] = (),
    band: tuple[float, float] | None = None,
) -> Figure:
    """Draw figures by part of the samples {name: [parts, 3] of value, low, high}, lowest energies first, a panel each.

    Ends of an interval may be NaN. `means` are those of all samples, `shares` are shown in percent, and `band` in
    [0, 1] is shaded.
    """
    figure, axes = panels(1, max(len(found), 1), height=3.4)
    for one, (name, rows) in zip(axes, found.items(), strict=False):
        values = np.asarray(rows, np.float64).reshape(-1, 3)
        if not np.isfinite(values[:, 0]).any():
            notice(one, "no finite samples")
            continue
        at = np.arange(1, len(values) + 1)
        spread = np.nan_to_num(np.maximum([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0))
        one.errorbar(at, values[:, 0], yerr=spread, fmt="o-", color=BLUE, markersize=4, elinewidth=1.2, label=name)
        if means and name in means:
            one.axhline(means[name], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="_mean")
        if name in shares:
            one.yaxis.set_major_formatter(PercentFormatter(1))
        if band is not None:
            one.axvspan(*(0.5 + len(values) * end for end in band), color=ORANGE, alpha=0.15, linewidth=0)
        one.set(ylabel=name, xticks=at)
    parts = max(map(len, found.values()), default=0)
    figure.supxlabel(f"part of the samples by energy, {parts} the highest", fontsize="medium")  # each panel is narrow
    return figure
