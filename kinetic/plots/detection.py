"""What a score for copies is worth: how it spreads over copies and others, and what it finds at which false alarms."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kinetic.plots.style import BLUE, MUTED, VERMILION, as_array, notice, panels, style


@style
def detection_figure(score: Any, positive: Any, *, name: str = "score") -> Figure:
    """Draw histograms of a `score` [N] over those that are `positive` [N] and the others, and the ROC curve."""
    figure, (left, right) = panels(1, 2, height=3.8)
    score, positive = as_array(score), np.asarray(positive, bool)
    keep = np.isfinite(score)
    yes, no = score[keep & positive], score[keep & ~positive]
    if not len(yes) or not len(no):
        notice(left, "no copies" if not len(yes) else "nothing but copies")
        notice(right, "no curve without both kinds")
        return figure
    edges = np.linspace(score[keep].min(), score[keep].max(), 41)
    left.hist(no, edges.tolist(), color=BLUE, alpha=0.55, label=f"others ({len(no)})")
    left.hist(yes, edges.tolist(), color=VERMILION, alpha=0.55, label=f"copies ({len(yes)})")
    left.set(xlabel=name, ylabel="samples")
    left.legend()
    thresholds = np.sort(score[keep])[::-1]
    found = np.searchsorted(np.sort(-yes), -thresholds, side="right") / len(yes)
    false = np.searchsorted(np.sort(-no), -thresholds, side="right") / len(no)
    right.step(np.r_[1e-3, np.maximum(false, 1e-3)], np.r_[0, found], where="post", color=VERMILION)
    line = np.geomspace(1e-3, 1, 50)
    right.plot(line, line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="chance")
    right.set(xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02), xlabel="others taken for copies", ylabel="copies found")
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=None))
    right.legend(loc="upper left")
    return figure
