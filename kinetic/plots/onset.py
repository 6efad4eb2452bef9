"""Copies and quality over training for several training-set sizes, and when each of them sets in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    ScalarFormatter,
    StrMethodFormatter,
)

from kinetic.plots.style import BLUE, MUTED, VERMILION, panels, plain, ramp, style, thin


@dataclass(frozen=True, kw_only=True)
class OnsetCurves:
    """One training: its name, its size, and F_mem and Fréchet distance by step; steps are None where none came.

    `varied` are trainings over whose sizes a line may be fitted.
    """

    name: str
    size: int
    f_mem: Mapping[int, float]
    fd: Mapping[int, float]
    tau_gen: int | None
    tau_mem: int | None
    before: int | None
    varied: bool = True


@style
def onset_figure(curves: Sequence[OnsetCurves], *, fit: tuple[float, float] | None = None) -> Figure:
    """Draw F_mem and Fréchet distance over steps, and the times over sizes with the line factor * n ** exponent."""
    figure, (copies, quality, times) = panels(1, 3, height=3.9)
    for curve, color in zip(curves, ramp(len(curves)), strict=True):
        line = "-" if curve.varied else (0, (4, 2))
        for axes, values in ((copies, curve.f_mem), (quality, curve.fd)):
            axes.plot(list(values), list(values.values()), color=color, linestyle=line, label=plain(curve.name))
    copies.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    copies.set_ylabel("F_mem")
    quality.set_ylabel("Fréchet distance to held-out images")
    steps = sorted({step for curve in curves for step in curve.f_mem})
    for axes in (copies, quality):
        axes.set(xscale="log", xlabel="training step", xticks=thin(steps, 4))
        _plain_ticks(axes)
    quality.set_yscale("log")
    _plain_values(quality)
    _times(times, [curve for curve in curves if curve.varied], fit)
    handles, labels = copies.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    handles, labels = times.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return figure


def _times(axes: Axes, curves: Sequence[OnsetCurves], fit: tuple[float, float] | None) -> None:
    """Draw τ_mem with its bracket and τ_gen over the sizes."""
    known = [curve for curve in curves if curve.tau_mem is not None]
    gaps = [[(c.tau_mem or 0) - (c.before or 0) for c in known], [0] * len(known)]
    sizes, taus = [c.size for c in known], [float(c.tau_mem or 0) for c in known]
    axes.errorbar(sizes, taus, yerr=gaps, fmt="o", color=VERMILION, markersize=5, label="τ_mem")
    early = [c for c in curves if c.tau_gen is not None]
    axes.plot(
        [c.size for c in early], [float(c.tau_gen or 0) for c in early], "s", color=BLUE, markersize=5, label="τ_gen"
    )
    every = [c.size for c in curves]
    if fit is not None:
        line = np.array([min(every), max(every)])
        axes.plot(line, fit[0] * line ** fit[1], color=MUTED, linewidth=1.2, label="fit")
    axes.set(xscale="log", yscale="log", xlabel="training images n", ylabel="step")
    axes.set_xticks(every)
    _plain_ticks(axes)
    _plain_values(axes)


def _plain_ticks(axes: Axes) -> None:
    """Whole numbers at the marks of the logarithmic x axis, and nothing between."""
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plain_values(axes: Axes) -> None:
    """Plain numbers 1, 2, 5, 10, ... on the logarithmic y axis."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
