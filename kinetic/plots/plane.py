"""Where fields of points in the plane lead."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kinetic.plots.style import GREEN, MUTED, VERMILION, as_array, panels, plain, style

FEW = 200  # training points that are drawn one by one


@style
def endpoints_figure(
    times: Sequence[float],
    places: Any,
    endpoints: Mapping[str, Any],
    training: Any,
    *,
    distances: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw lines from `places` [T, n, 2] to the endpoints [T, n, 2] of each field, one row a field, one column a time.

    Training points [m, 2] are rings where they are few. `distances` {field: [T]} are written into the panels.
    """
    figure, axes = panels(len(endpoints), len(times), height=2.05 * len(endpoints) + 0.8, sharex=True, sharey=True)
    starts, known = as_array(places), as_array(training)
    for row, (name, found) in enumerate(endpoints.items()):
        ends = as_array(found)
        for column, t in enumerate(times):
            one = axes[row * len(times) + column]
            lines = [list(pair) for pair in zip(starts[column], ends[column], strict=True)]
            one.add_collection(LineCollection(lines, colors=MUTED, linewidths=0.4, alpha=0.35))
            if len(known) <= FEW:
                one.scatter(known[:, 0], known[:, 1], s=26, facecolor="none", edgecolor=GREEN, linewidth=0.9)
            one.scatter(ends[column, :, 0], ends[column, :, 1], s=4, color=VERMILION, linewidth=0, zorder=3)
            one.set(aspect="equal", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            if row == 0:
                one.set_title(f"t = {t:g}", loc="center")
            if distances is not None:
                _corner(one, f"{distances[name][column]:.2g}")
        axes[row * len(times)].set_ylabel("\n".join(wrap(plain(name, 72), 24)))
    figure.legend(
        handles=_legend(rings=len(known) <= FEW, numbers=distances is not None), loc="outside lower center", ncols=2
    )
    return figure


def _corner(axes: Any, text: str) -> None:
    axes.text(0.97, 0.03, text, ha="right", va="bottom", fontsize=8, transform=axes.transAxes)


def _legend(*, rings: bool, numbers: bool) -> list[Line2D]:
    point: Any = {"linestyle": "", "marker": "o"}
    shown = [
        Line2D([], [], color=MUTED, linewidth=0.8, label="from a held-out point under noise"),
        Line2D([], [], color=VERMILION, markersize=3, **point, label="to the data that the field expects there"),
    ]
    if rings:
        shown.append(Line2D([], [], color=GREEN, markersize=5, markerfacecolor="none", **point, label="training point"))
    if numbers:
        shown.append(Line2D([], [], linestyle="", label="number: median distance to a training point"))
    return shown
