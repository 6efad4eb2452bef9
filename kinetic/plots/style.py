"""What all figures share: the palette, axes, and SVG that follows the reader's light or dark setting.

Figures are drawn in the light colours below, so that a PNG reads well on white. `themed_svg` turns each of these exact
colours into a CSS variable, and `THEME_CSS` gives every variable a light and a dark value: one drawing, two themes.
The eight hues are those of Okabe and Ito (2008), which readers with any common colour blindness can tell apart.
"""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kinetic.store.files import replacing

INK, MUTED, GRID, PAPER = "#1f2328", "#5b636d", "#dfe3e8", "#fefefe"
BLUE, VERMILION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
SKY, PURPLE = "#56b4e9", "#cc79a7"
CAPTION = "#808080"  # legible on white and on black, for pictures with a transparent ground
# Earlier to later: from faint to strong against the page.
RAMP = ("#a9c9e4", "#8ab4d8", "#6c9fcb", "#4f8abd", "#3675ab", "#226094", "#134a79", "#08355b")

_DARK = {INK: "#e6e9ed", MUTED: "#a3acb7", GRID: "#343a42", PAPER: "#15181c", BLUE: "#4aa8e0", VERMILION: "#ff8a3d"}
_DARK |= {GREEN: "#2cc79a", ORANGE: "#f2b632", SKY: "#7cc6f2", PURPLE: "#e09cc4"}
_DARK |= dict(
    zip(RAMP, ("#2f4d68", "#3b6386", "#4879a3", "#578fbe", "#6ea6d3", "#8cbde3", "#aed3f0", "#d3e8f9"), strict=True)
)
_VARIABLES = {colour: f"--plot-{number}" for number, colour in enumerate(_DARK)}


def _declare(values: dict[str, str]) -> str:
    return "".join(f"{_VARIABLES[light]}:{value};" for light, value in values.items())


THEME_CSS = (
    f":root{{{_declare({colour: colour for colour in _DARK})}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_declare(_DARK)}}}}}"
)

RC: Any = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
    "figure.facecolor": PAPER,
    "figure.dpi": 160,
}
style = matplotlib.rc_context(RC)  # a decorator: the house style holds while a figure is drawn, and no longer

Array = NDArray[np.float64]


def as_array(values: Any) -> Array:
    """Turn a tensor on any device, a sequence or an array into float64 numpy of the same shape."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def finite(values: Any) -> Array:
    """Return the finite entries, flat."""
    array = as_array(values).ravel()
    return array[np.isfinite(array)]


def plain(name: object, most: int = 48) -> str:
    """A name from a file as text in a figure: short, on one line, and never taken for a formula."""
    line = "".join(c if c.isprintable() else " " for c in str(name))
    return (line if len(line) <= most else f"{line[: most - 1]}…").replace("$", r"\$")


def panels(rows: int = 1, columns: int = 1, *, height: float = 3.6, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure of laptop width (8.6 in) with `rows` x `columns` axes, in reading order."""
    figure = Figure(figsize=(8.6, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def notice(axes: Axes, text: str) -> None:
    """Say in the middle of empty axes why nothing is drawn there."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def ramp(number: int) -> list[str]:
    """Return `number` colours from faint (early) to strong (late); a single one is the strongest."""
    if number < 2:
        return [RAMP[-1]] * number
    return [RAMP[round(i * (len(RAMP) - 1) / (number - 1))] for i in range(number)]


def thin(items: Sequence[Any], most: int) -> list[Any]:
    """Choose at most `most` (2 or more) of the items, evenly, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def log_spaced(steps: Any) -> bool:
    """Whether positive steps lie more evenly on a logarithmic axis than on a linear one."""
    known = np.unique(finite(steps))
    if known.size < 4 or known[0] <= 0:
        return False
    gaps = np.diff(known)
    ratios = np.diff(np.log(known))
    return bool(ratios.std() / ratios.mean() < gaps.std() / gaps.mean())


def step_axis(axes: Axes, steps: Any) -> None:
    """Label the x axis as training steps with plain numbers; logarithmic where the steps are log-spaced."""
    axes.set_xlabel("training step")
    if log_spaced(steps):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        marks = thin(np.unique(finite(steps)).tolist(), 8)
        axes.set_xticks(marks)
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))


def phases(axes: Axes, tau: float | None) -> None:
    """Mark τ and name the launch before it and the landing after it, on a time axis over [0, 1]."""
    axes.set(xlabel="time t  (0 = noise, 1 = data)", xlim=(0, 1))
    if tau is None:
        return
    axes.axvline(tau, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, label="_tau")
    axes.axvspan(tau, 1, color=ORANGE, alpha=0.09, linewidth=0, label="_landing")
    blended = axes.get_xaxis_transform()
    words = ((tau / 2, "launch"), ((1 + tau) / 2, "landing"), (tau, f"τ = {tau:g}"))
    for x, word in words:
        axes.text(x, 1.015, word, ha="center", va="bottom", fontsize=8.5, color=MUTED, transform=blended)


def themed_svg(figure: Figure, prefix: str) -> str:
    """Render as SVG to be put inside HTML: text stays text, colours are CSS variables, ids start with `prefix`.

    The page has to hold `THEME_CSS`. Distinct prefixes keep the ids of several figures in one page apart.
    """
    figure.patch.set_alpha(0)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", dpi=144, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sid="', f' id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-").replace('xlink:href="#', f'href="#{prefix}-')
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as PNG, SVG or PDF (by suffix): beside `path` first, then renamed; makes missing folders."""
    target = Path(path)
    with replacing(target) as beside:
        figure.savefig(beside, format=target.suffix.lstrip(".") or "png")
    return target
