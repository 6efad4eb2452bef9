"""Charts of samples: their energies, one trajectory step by step, settings side by side, and 2-D points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kinetic.errors import KineticError
from kinetic.plots.images import to_rgba
from kinetic.plots.style import (
    BLUE,
    MUTED,
    ORANGE,
    VERMILION,
    Array,
    as_array,
    finite,
    notice,
    panels,
    phases,
    plain,
    style,
)
from kinetic.units import energy_label, energy_unit, power_label


def _histogram(axes: Axes, energy: Array, field: Array) -> None:
    if not energy.size:
        notice(axes, "no finite energies")
        return
    pooled = np.concatenate([energy, field])
    low, high = float(pooled.min()), float(pooled.max())
    pad = 0 if high - low > 1e-9 * max(1.0, abs(high)) else max(1.0, abs(high)) * 0.05
    bins = np.linspace(low - pad, high + pad, int(np.clip(np.sqrt(energy.size) * 1.5, 8, 60)) + 1).tolist()
    axes.hist(energy, bins=bins, color=BLUE, alpha=0.55, label=f"executed motion, mean {energy.mean():.4g}")
    axes.axvline(energy.mean(), color=BLUE, linewidth=1.4, label="_mean")
    if field.size == energy.size and not np.allclose(field, energy, rtol=1e-6):
        mean = f"field along the path, mean {field.mean():.4g}"
        axes.hist(field, bins=bins, histtype="step", color=VERMILION, linewidth=1.5, label=mean)
        axes.axvline(field.mean(), color=VERMILION, linewidth=1.4, linestyle=(0, (4, 3)), label="_mean")
    axes.set(xlabel=energy_label(), ylabel="samples")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)


def _profile(axes: Axes, times: Array, power: Array, gain: Any) -> None:
    """Draw mean and quartiles of `power` [steps, B] over the samples that are finite throughout."""
    columns = power if power.ndim == 2 else power[:, None]
    kept = columns[:, np.isfinite(columns).all(axis=0)]
    if not kept.size:
        notice(axes, "no finite power profile")
        return
    low, high = np.percentile(kept, [25, 75], axis=1)
    mean = kept.mean(axis=1)
    axes.fill_between(times, low, high, color=BLUE, alpha=0.2, linewidth=0, label="middle half of the samples")
    axes.plot(times, mean, color=BLUE, label="mean power of the field")
    if gain is not None and not np.allclose(as_array(gain), 1):
        executed = mean * as_array(gain) ** 2
        axes.plot(times, executed, color=VERMILION, linestyle=(0, (4, 2)), label="executed, η² times that")
    axes.legend()


@style
def energies_figure(
    energy: Any,
    field_energy: Any,
    times: Any,
    power: Any,
    *,
    tau: float | None = 0.6,
    gain: Any = None,
    title: str = "",
) -> Figure:
    """Draw the distribution of energies [B] and, beside it, the power profile over time with launch and landing.

    `power` [steps, B] is that of the field, at `times` [steps]; with the gains η [steps] the executed power η²·½‖v‖² is
    drawn too. Executed and field energies are told apart where they differ.
    """
    figure, (left, right) = panels(1, 2, height=3.7)
    _histogram(left, finite(energy), finite(field_energy))
    right.set(ylabel=power_label())
    phases(right, tau)
    _profile(right, as_array(times), as_array(power), gain)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


@style
def trajectory_figure(
    times: Any,
    power: Any,
    snapshots: Any = None,
    snapshot_times: Any = (),
    *,
    gain: Any = None,
    tau: float | None = 0.6,
    title: str = "",
) -> Figure:
    """Draw one sample's power [steps] and the energy summed up so far, over its states [T, C, H, W] on the way.

    The sum is the left Riemann sum of the (executed, where gains η [steps] are given) power from `times[0]` to t = 1.
    """
    t, raw = as_array(times), as_array(power).ravel()
    executed = raw if gain is None else raw * as_array(gain) ** 2
    sums = np.concatenate([[0.0], np.cumsum(executed * np.diff(np.append(t, 1.0)))])
    strip = snapshots is not None and len(snapshots) > 0
    figure = Figure(figsize=(8.6, 4.6 if strip else 3.4), layout="constrained")
    grid = figure.add_gridspec(2 if strip else 1, 2, height_ratios=(3, 1) if strip else None)
    left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    left.plot(t, raw, color=BLUE, label="power of the field")
    left.set(ylabel=power_label())
    if gain is not None:
        left.plot(t, executed, color=VERMILION, linestyle=(0, (4, 2)), label="executed")
        left.legend()
    right.plot(np.append(t, 1.0), sums, color=BLUE, label="energy so far")
    right.set(ylabel=f"energy so far  ({energy_unit()})")
    for axes in (left, right):
        phases(axes, tau)
    if strip:
        _strip(figure.add_subplot(grid[1, :]), snapshots, as_array(snapshot_times))
    figure.suptitle(title or f"energy {sums[-1]:.4g}", fontsize=10)
    return figure


def _strip(axes: Axes, snapshots: Any, times: Array) -> None:
    """Show states of one trajectory in a row: images, or a 2-D path for points [T, 2]."""
    states = as_array(snapshots)
    if states.ndim == 2:
        axes.plot(states[:, 0], states[:, 1], color=BLUE, marker="o", markersize=3)
        axes.set(xlabel="x₁", ylabel="x₂", aspect="equal")
        return
    tiles = to_rgba(states)
    width = tiles.shape[2]
    for i, tile in enumerate(tiles):
        left = i * width * 1.06
        axes.imshow(tile, extent=(left, left + width, tiles.shape[1], 0), interpolation="nearest")
        if i < len(times):
            word = f"t = {times[i]:.2f}" if not i else f"{times[i]:.2f}"
            axes.text(left + width / 2, tiles.shape[1] * 1.06, word, ha="center", va="top", fontsize=8, color=MUTED)
    axes.set(xlim=(0, len(tiles) * width * 1.06), ylim=(tiles.shape[1] * 1.25, 0))
    axes.set_axis_off()


@style
def settings_figure(
    names: Sequence[str],
    energy: Any,
    f_mem: Any,
    low: Any,
    high: Any,
) -> Figure:
    """Draw one row per setting: F_mem with its interval on the left, mean energy on the right, all [S]."""
    figure, (left, right) = panels(1, 2, height=1.2 + 0.42 * max(len(names), 2), sharey=True)
    rows = -np.arange(len(names))
    fraction, bottom, top = as_array(f_mem), as_array(low), as_array(high)
    if finite(fraction).size:
        left.hlines(rows, bottom, top, color=VERMILION, linewidth=3, alpha=0.4, label="95 % interval")
        left.plot(fraction, rows, "o", color=VERMILION, label="F_mem")
        left.xaxis.set_major_formatter(PercentFormatter(1))
        left.set(xlabel="copies among samples, with 95 % interval")
        left.set_xlim(0, float(finite([fraction, top]).max()) * 1.06 or 1)
    else:
        left.text(0.5, 0.5, "F_mem not measured", ha="center", va="center", color=MUTED, transform=left.transAxes)
        left.set_xticks([])
    right.plot(as_array(energy), rows, "o", color=BLUE, label="mean energy")
    right.set(xlabel=energy_label())
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.set_yticks(rows, [plain(name) for name in names])
    right.set_ylim(-len(names) + 0.4, 0.6)
    right.tick_params(axis="y", labelleft=False)
    return figure


@style
def toy_scatter(samples: Any, data: Any = None, *, title: str = "") -> Figure:
    """Draw generated points [N, 2] over data points [M, 2]; rows that are not finite are left out."""
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes = figure.add_subplot()
    drawn = []
    for points, colour, marker, name in ((data, ORANGE, "s", "data"), (samples, BLUE, "o", "samples")):
        if points is None:
            continue
        array = as_array(points)
        if array.ndim != 2 or array.shape[1] != 2:
            raise KineticError(
                f"{name} must be points [N, 2], got shape {list(array.shape)}; draw images with image_grid"
            )
        array = array[np.isfinite(array).all(axis=1)]
        if len(array):
            label = f"{name}: {len(array):,}"
            drawn.append(
                axes.scatter(
                    array[:, 0], array[:, 1], s=7, marker=marker, color=colour, alpha=0.5, linewidth=0, label=label
                )
            )
    if not drawn:
        notice(axes, "no finite points")
        return figure
    axes.set(xlabel="x₁", ylabel="x₂", aspect="equal")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    if title:
        axes.set_title(title, pad=20)
    return figure
