"""What samples are like by decile of their energy."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kinetic.plots.style import BLUE, ORANGE, as_array, panels, style
from kinetic.units import energy_unit

Bounds = tuple[float, float, float]  # a number with both ends of its interval, NaN without


@style
def deciles_figure(
    found: Mapping[str, Sequence[Bounds]],
    energies: Sequence[float],
    *,
    shares: Collection[str] = (),
    band: tuple[float, float] | None = None,
) -> Figure:
    """Draw each figure by decile, one panel each, named by the mean energies; `band` in [0, 1] is shaded."""
    figure, axes = panels(1, len(found), height=3.2)
    x = list(range(1, len(energies) + 1))
    for place, (name, values) in zip(axes, found.items(), strict=True):
        middle, low, high = as_array(values).T
        place.errorbar(x, middle, yerr=[middle - low, high - middle], fmt="o-", color=BLUE, markersize=4)
        place.set(title=name, xlabel="decile of energy", xticks=x)
        if name in shares:
            place.yaxis.set_major_formatter(PercentFormatter(1))
        if band is not None:
            ends = (0.5 + len(x) * end for end in band)
            place.axvspan(*ends, color=ORANGE, alpha=0.15, linewidth=0)
    axes[0].set_xlabel(f"decile of energy\n({energies[0]:.3g} to {energies[-1]:.3g} {energy_unit()})")
    return figure
