"""Two ways to pair noise and images, over the number of steps."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

from kinetic.plots.style import BLUE, VERMILION, as_array, notice, panels, style

Bounds = tuple[int, float, float, float]  # steps, and a number with both ends of its interval, NaN without


@style
def couplings_figure(found: Mapping[str, Mapping[str, Sequence[Bounds]]]) -> Figure:
    """Draw figures {name: {coupling: points}} over the number of steps, a panel each."""
    figure, axes = panels(1, max(len(found), 1), height=3.4)
    for one, (name, curves) in zip(axes, found.items(), strict=False):
        for (coupling, points), color in zip(curves.items(), (BLUE, VERMILION), strict=False):
            steps, middle, low, high = as_array(points).T
            spread = [[0.0 if math.isnan(e) else e for e in ends] for ends in (middle - low, high - middle)]
            one.errorbar(steps, middle, yerr=spread, fmt="o-", color=color, markersize=4, label=coupling)
        one.set(xscale="log", xlabel="steps", title=name, xticks=sorted({p[0] for c in curves.values() for p in c}))
        one.xaxis.set_major_formatter(ScalarFormatter())
        one.xaxis.set_minor_formatter(NullFormatter())
        one.xaxis.set_minor_locator(NullLocator())
    if found:
        axes[0].legend()
    else:
        notice(axes[0], "nothing was measured")
    return figure
