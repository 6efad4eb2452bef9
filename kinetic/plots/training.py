"""Charts of a training run: losses, energies, power profiles, and memorization over the training steps.

Energies are ½∫‖v‖²dt with t without unit, so they are in squared units of the samples, see `kinetic.units`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kinetic.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RAMP,
    VERMILION,
    Array,
    as_array,
    finite,
    notice,
    panels,
    phases,
    plain,
    ramp,
    step_axis,
    style,
    thin,
)
from kinetic.units import energy_label, power_label

_LINES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)


@dataclass(frozen=True)
class Profile:
    """Power over time at one validation: `t`, mean and quartiles, all [T]."""

    t: Any
    mean: Any
    q25: Any
    q75: Any


@dataclass(frozen=True)
class Curve:
    """Values with an interval over training steps, all [V]; entries that are not finite are left open."""

    steps: Any
    value: Any
    low: Any
    high: Any


def smooth(values: Array, span: int) -> Array:
    """Average each entry with its neighbours, `span` wide and narrower at the ends; finite entries only."""
    ok = np.isfinite(values)
    window = np.ones(span)
    weight = np.convolve(ok.astype(float), window, "same")
    return np.convolve(np.where(ok, values, 0.0), window, "same") / np.maximum(weight, 1)


@style
def loss_curves(curves: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Draw {name: (steps, losses)}; a curve of more than 60 points is drawn faint, with its moving average on top."""
    figure, (axes,) = panels(height=3.2)
    drawn = {plain(name): (as_array(x), as_array(y)) for name, (x, y) in curves.items() if finite(y).size}
    for (name, (x, y)), colour in zip(drawn.items(), _LINES * (1 + len(drawn)), strict=False):
        if len(y) > 60:
            axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.35, label=f"_{name}")
            axes.plot(x, smooth(y, len(y) // 30), color=colour, label=f"{name}, moving average")
        else:
            axes.plot(x, y, color=colour, marker="o", markersize=3.5, label=name)
    if not drawn:
        notice(axes, "no losses logged")
        return figure
    step_axis(axes, [])
    axes.set_ylabel("mean squared error of v")
    axes.legend()
    return figure


def density(values: Array, grid: Array) -> Array:
    """Gaussian kernel density of `values` [N] at `grid` [G], with Silverman's bandwidth; zero where N < 2 or equal."""
    spread = min(values.std(), np.subtract(*np.percentile(values, [75, 25])) / 1.349 or np.inf) if values.size else 0
    if values.size < 2 or spread <= 1e-12 * max(1.0, abs(values).max()):
        return np.zeros_like(grid)
    width = 0.9 * spread * values.size ** (-1 / 5)
    kernels = np.exp(-0.5 * ((grid[:, None] - values[None]) / width) ** 2)
    return kernels.sum(1) / (values.size * width * np.sqrt(2 * np.pi))


@style
def energy_ridge(groups: Mapping[Any, Any], *, ylabel: str = "training step", most: int = 14) -> Figure:
    """Draw one density per group, {step or name: energies [N]}, first on top, with the means, joined over steps.

    At most `most` groups are drawn, evenly chosen with the first and the last. The axis covers 99 % of all energies.
    """
    known = {name: finite(values) for name, values in groups.items()}
    rows = thin([(name, values) for name, values in known.items() if values.size], most)
    figure, (axes,) = panels(height=1.3 + 0.42 * max(len(rows), 3))
    if not rows:
        notice(axes, "no finite energies")
        return figure
    pooled = np.concatenate([values for _, values in rows])
    low, high = np.percentile(pooled, [0.5, 99.5])
    pad = 0.06 * (high - low) or max(1.0, abs(high)) * 0.1
    grid = np.linspace(low - pad, high + pad, 240)
    for place, ((_, values), colour) in enumerate(zip(rows, ramp(len(rows)), strict=True)):
        _ridge(axes, grid, density(values, grid), -place, colour, place)
    means = [values.mean() for _, values in rows]
    joined = "-" if all(isinstance(name, int) for name, _ in rows) else "none"
    mark: Any = {"color": VERMILION, "marker": "o", "markersize": 4, "linewidth": 1.2, "linestyle": joined}
    axes.plot(means, -np.arange(len(rows)), zorder=4, label="mean", **mark)
    names = [f"{name:,}" if isinstance(name, int) else plain(name) for name, _ in rows]
    axes.set_yticks(-np.arange(len(rows)), names)
    axes.set(xlabel=energy_label(), ylabel=ylabel, xlim=(grid[0], grid[-1]))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    return figure


def _ridge(axes: Axes, grid: Array, heights: Array, base: float, colour: str, order: int) -> None:
    peak = heights.max()
    top = base + (1.35 * heights / peak if peak > 0 else heights)
    axes.fill_between(grid, base, top, color=colour, alpha=0.75, linewidth=0, zorder=2 + 0.01 * order)
    axes.plot(grid, top, color=RAMP[-1], linewidth=0.8, zorder=2.005 + 0.01 * order, label="_density")


@style
def power_profiles(profiles: Mapping[int, Profile], *, tau: float | None = None, most: int = 7) -> Figure:
    """Draw the mean power over time at each validation {step: Profile}; the last one with its quartiles."""
    figure, (axes,) = panels(height=3.8)
    rows = thin([(step, p) for step, p in profiles.items() if finite(p.mean).size], most)
    if not rows:
        notice(axes, "no power profiles")
        return figure
    for (step, profile), colour in zip(rows, ramp(len(rows)), strict=True):
        axes.plot(as_array(profile.t), as_array(profile.mean), color=colour, label=f"step {step:,}")
    step, last = rows[-1]
    axes.fill_between(
        as_array(last.t), as_array(last.q25), as_array(last.q75), color=RAMP[-1], alpha=0.14, linewidth=0, label="_band"
    )
    axes.set(ylabel=power_label())
    phases(axes, tau)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right upper",
        alignment="left",
        title_fontsize=8.5,
        title=f"band: middle half,\nstep {step:,}",
    )
    return figure


def _banded(axes: Axes, curve: Curve, colour: str, name: str, band: str) -> None:
    steps, value = as_array(curve.steps), as_array(curve.value)
    axes.plot(steps, value, color=colour, marker="o", markersize=4, label=name)
    low, high = as_array(curve.low), as_array(curve.high)
    if np.isfinite(low).any():
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0, label=band)


def _onsets(axes: Sequence[Axes], copying: float | None, energy: float | None) -> None:
    """Mark both onsets in all panels, their words side by side however near they are."""
    marks = [(copying, "onset of copying", INK), (energy, "onset by energy", BLUE)]
    found = sorted((step, words, colour) for step, words, colour in marks if step is not None)
    sides = ("right", "left") if len(found) == 2 else ("center",)
    transform = axes[0].get_xaxis_transform()
    for (step, words, colour), side in zip(found, sides, strict=False):
        for one in axes:
            one.axvline(step, color=colour, linestyle=(0, (4, 3)), linewidth=1.1, label="_onset")
        text = f"{words}: step {step:,.0f}"
        axes[0].text(step, 1.02, text, ha=side, va="bottom", fontsize=8.5, color=colour, transform=transform)


@style
def memorization_curve(
    f_mem: Curve,
    energies: Curve | None = None,
    *,
    null: tuple[float, float] | None = None,
    onset: float | None = None,
    energy_onset: float | None = None,
) -> Figure:
    """Draw F_mem with its interval over the steps and, below on the same axis, the mean energy with its band.

    `null` is the fraction among held-out images and the upper end of its interval; the onset of copying and that by
    energy are marked in both panels.
    """
    count = 1 if energies is None else 2
    figure, axes = panels(count, height=3.0 if energies is None else 5.2, sharex=True)
    top = axes[0]
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if finite(f_mem.value).size:
        if null is not None and np.isfinite(null[1]):
            top.axhspan(
                0, null[1], color=MUTED, alpha=0.18, linewidth=0, label="held-out images, up to their upper limit"
            )
        _banded(top, f_mem, VERMILION, "F_mem", "95 % interval")
        top.set_ylabel("copies among samples")
        top.set_ylim(-0.03 * top.get_ylim()[1], None)
        top.legend(loc="upper left", frameon=True, facecolor=PAPER, edgecolor=PAPER, framealpha=0.85)
    else:
        notice(top, "no memorisation measured")
    if energies is not None:
        _banded(axes[1], energies, BLUE, "mean", "middle half of the samples")
        axes[1].set_ylabel(energy_label("\n"))
        axes[1].legend(loc="lower right")
    steps = np.concatenate([finite(curve.steps) for curve in (f_mem, energies) if curve is not None])
    if steps.size:
        step_axis(axes[-1], steps)
        _onsets(axes, onset, energy_onset)
    return figure


@style
def energy_scatter(energy: Any, ratio: Any, *, threshold: float = 1 / 3, copied: Any = None) -> Figure:
    """Draw energy [N] against d₁/d₂ [N] with the threshold; copies ([N] bool, by default ratio < threshold) stand out.

    Samples whose energy or ratio is not finite are left out.
    """
    figure, (axes,) = panels(height=4.0)
    x, y = as_array(ratio).ravel(), as_array(energy).ravel()
    ok = np.isfinite(x) & np.isfinite(y)
    if not ok.any():
        notice(axes, "no samples with a finite energy and a finite d₁/d₂")
        return figure
    copies = (x < threshold) if copied is None else as_array(copied).ravel() > 0
    large = int(ok.sum()) > 3000
    for mask, colour, marker, name in (
        (ok & ~copies, BLUE, "o", "not copied"),
        (ok & copies, VERMILION, "D", "copies"),
    ):
        label = f"{name}: {int(mask.sum()):,}"
        axes.scatter(
            x[mask], y[mask], s=14, marker=marker, color=colour, alpha=0.6, linewidth=0, label=label, rasterized=large
        )
    axes.axvline(threshold, color=INK, linestyle=(0, (4, 3)), linewidth=1.1, label="_threshold")
    words = f"copy if d₁/d₂ < {'1/3' if abs(threshold - 1 / 3) < 1e-9 else f'{threshold:g}'}"
    axes.text(threshold, 1.015, words, ha="center", va="bottom", fontsize=8.5, transform=axes.get_xaxis_transform())
    axes.set(xlabel="d₁/d₂, distance to the nearest over the second-nearest training image", ylabel=energy_label())
    axes.set_xlim(0, max(1.0, float(x[ok].max())) * 1.02)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure
