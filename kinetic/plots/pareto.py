"""Copies against quality: where each setting lies, and which of them no other one beats in both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from kinetic.plots.style import BLUE, MUTED, VERMILION, notice, panels, plain, style


@dataclass(frozen=True)
class Point:
    """A setting: its F_mem with interval, its Fréchet distance, and whether it is a control."""

    name: str
    f_mem: float
    low: float
    high: float
    fd: float
    control: bool


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other point has both fewer copies and a smaller distance than, by rising F_mem."""
    best, kept = math.inf, list[Point]()
    for point in sorted(points, key=lambda p: (p.f_mem, p.fd)):
        if point.fd < best:
            best, kept = point.fd, [*kept, point]
    return kept


@style
def pareto_figure(points: Sequence[Point], *, copies: str = "F_mem") -> Figure:
    """Draw settings and controls by F_mem, called `copies`, and Fréchet distance, with the front that none beats."""
    known = [p for p in points if math.isfinite(p.f_mem) and math.isfinite(p.fd)]
    figure, (axes,) = panels(1, height=5.2)
    if not known:
        notice(axes, "no setting with both copies and quality")
        return figure
    edge = front(known)
    axes.plot([p.f_mem for p in edge], [p.fd for p in edge], color=MUTED, linewidth=1, label="front")
    for control, color in ((True, BLUE), (False, VERMILION)):
        some = [p for p in known if p.control == control]
        spread = [[p.f_mem - p.low for p in some], [p.high - p.f_mem for p in some]]
        place = [p.f_mem for p in some], [p.fd for p in some]
        label = "controls" if control else "settings"
        axes.errorbar(*place, xerr=spread, fmt="o", color=color, markersize=5, elinewidth=0.9, label=label)
    for number, point in enumerate(known, 1):
        where = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 8.5}
        axes.annotate(str(number), (point.f_mem, point.fd), **where)  # type: ignore[arg-type]
    axes.set(xlabel=f"{copies}, 95 % interval", ylabel="Fréchet distance to held-out images")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = axes.get_legend_handles_labels()
    nothing = [Line2D([], [], linestyle="none") for _ in known]
    names = [f"{number}  {plain(point.name, 34)}" for number, point in enumerate(known, 1)]
    how: Any = {"loc": "outside right upper", "handlelength": 1.2, "handletextpad": 0.4, "fontsize": 8}
    figure.legend([*handles, *nothing], [*labels, *names], **how)
    return figure
