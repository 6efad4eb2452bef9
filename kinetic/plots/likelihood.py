"""Charts of log-likelihoods: how they spread, and how energies go with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kinetic.plots.style import BLUE, GREEN, VERMILION, as_array, finite, notice, panels, plain, style
from kinetic.units import energy_label

LABEL = "log p per dimension  (nats)"


@style
def likelihood_histograms(groups: Mapping[str, Any]) -> Figure:
    """Draw the density of log p per dimension [N] of each group, with its mean as a line."""
    figure, (axes,) = panels(height=3.8)
    known = {name: finite(values) for name, values in groups.items()}
    known = {name: values for name, values in known.items() if values.size}
    if not known:
        notice(axes, "no finite log-likelihood")
        return figure
    pooled = np.concatenate(list(known.values()))
    edges = np.histogram_bin_edges(pooled, bins=30).tolist()
    for (name, values), colour in zip(known.items(), (VERMILION, BLUE, GREEN), strict=False):
        label = f"{plain(name)} ({values.size:,})"
        axes.hist(values, edges, color=colour, alpha=0.25, density=True)
        axes.hist(values, edges, color=colour, histtype="step", linewidth=1.5, density=True, label=label)
        axes.axvline(values.mean(), color=colour, linewidth=1.2, linestyle=(0, (4, 3)), label="_mean")
    axes.set(xlabel=LABEL, ylabel="share per nat and dimension")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


@style
def energy_likelihood(groups: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Draw energy against log p per dimension, (log p [N], energy [N]) for each group."""
    figure, (axes,) = panels(height=4.2)
    for (name, (log_p, energy)), colour in zip(groups.items(), (VERMILION, BLUE, GREEN), strict=False):
        x, y = as_array(log_p), as_array(energy)
        ok = np.isfinite(x) & np.isfinite(y)
        label = f"{plain(name)} ({int(ok.sum()):,})"
        axes.scatter(x[ok], y[ok], s=14, color=colour, alpha=0.6, linewidth=0, label=label, rasterized=len(x) > 3000)
    axes.set(xlabel=LABEL, ylabel=energy_label("\n"))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure
