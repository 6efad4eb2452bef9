"""Pictures of samples: grids, samples beside their nearest training images, and the same seeds under several settings.

Images are float [N, C, H, W] in [-1, 1]. Every image is enlarged by a whole number and drawn one to one, so pixels stay
square and sharp. The ground is transparent and captions are mid-grey: such a PNG reads on light and on dark pages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kinetic.errors import KineticError
from kinetic.plots.style import CAPTION, VERMILION, Array, as_array, style

_DPI = 100
_LINE = 13  # pixels a line of caption takes
_BAD = matplotlib.colors.to_rgba(VERMILION)


def to_rgba(images: Any) -> Array:
    """Turn [N, C, H, W] in [-1, 1] into RGBA [N, H, W, 4] in [0, 1]; out-of-range values are clipped.

    One channel is grey, three are RGB, and of any other count (latents) the mean is shown as grey. Pixels that are not
    finite are vermilion, so that a broken sample cannot be mistaken for a black one.
    """
    array = as_array(images)
    if array.ndim != 4:
        raise KineticError(f"images must be [N, C, H, W], got shape {list(array.shape)}; draw points with toy_scatter")
    count, channels, height, width = array.shape
    if channels not in (1, 3) and channels:
        array = array.mean(axis=1, keepdims=True)
    bad = ~np.isfinite(array).all(axis=1)
    rgba = np.ones((count, height, width, 4))
    rgba[..., :3] = np.clip(np.nan_to_num(array) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    rgba[bad] = _BAD
    return rgba


def _enlarge(tiles: Array, target: int) -> Array:
    """Repeat pixels a whole number of times, so that tiles [N, H, W, 4] are about `target` pixels high."""
    factor = max(1, round(target / max(tiles.shape[1], 1)))
    return tiles.repeat(factor, axis=1).repeat(factor, axis=2)


def _canvas(pixels: Array) -> tuple[Figure, Axes]:
    """Show RGBA pixels [H, W, 4] one to one on a transparent figure; its axes count pixels from the top left."""
    height, width = pixels.shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    return figure, axes


def _write(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    defaults: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8, "color": CAPTION}
    axes.text(x, y, text, **(defaults | options))


def _mosaic(tiles: Array, columns: int, captions: Sequence[str], title: str, marked: Sequence[bool]) -> Figure:
    """Lay RGBA tiles [N, H, W, 4] out in rows, captions below them, a frame round those that are marked."""
    count, high, wide = tiles.shape[:3]
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    cell_w, cell_h = wide + 8, high + 9 + lines * _LINE
    top = _LINE + 8 if title else 4
    rows = -(-count // columns)
    width = max(min(columns, count) * cell_w, 7 * len(title), 80) + 8
    corners = [(8 + i % columns * cell_w, top + i // columns * cell_h) for i in range(count)]
    ground = np.zeros((top + max(rows * cell_h, 2 * _LINE) + 4, width, 4))
    for (x, y), tile in zip(corners, tiles, strict=True):
        ground[y : y + high, x : x + wide] = tile
    figure, axes = _canvas(ground)
    if title:
        _write(axes, 8, 4, title, ha="left", fontsize=8.5)
    if not count:
        _write(axes, 8, top + 4, "no samples", ha="left")
    for (x, y), caption in zip(corners, captions, strict=False):
        _write(axes, x + wide / 2, y + high + 4, caption)
    for (x, y), mark in zip(corners, marked, strict=False):
        if mark:
            axes.add_patch(Rectangle((x - 2, y - 2), wide + 4, high + 4, fill=False, edgecolor=VERMILION, linewidth=2))
    return figure


@style
def image_grid(
    images: Any,
    captions: Sequence[str] = (),
    *,
    columns: int = 8,
    title: str = "",
    marked: Sequence[bool] = (),
) -> Figure:
    """Draw images [N, C, H, W] in [-1, 1] in rows of `columns`, each over its caption; `marked` ones are framed."""
    if columns < 1:
        raise KineticError(f"columns must be at least 1, got {columns}")
    tiles = to_rgba(images)
    target = 80 if captions else 64
    return _mosaic(_enlarge(tiles, target), columns, captions, title, marked)


@style
def gallery(
    samples: Any,
    neighbours: Any,
    captions: Sequence[str] = (),
    *,
    columns: int = 4,
    title: str = "left: generated, right: nearest training image",
    marked: Sequence[bool] = (),
) -> Figure:
    """Draw each sample beside its nearest training image, both [N, C, H, W] in [-1, 1], over one caption a pair."""
    left, right = _enlarge(to_rgba(samples), 96), _enlarge(to_rgba(neighbours), 96)
    if left.shape != right.shape:
        raise KineticError(f"samples {list(left.shape)} and neighbours {list(right.shape)} must have the same shape")
    seam = np.zeros((*left.shape[:2], 4, 4))
    return _mosaic(np.concatenate([left, seam, right], axis=2), columns, captions, title, marked)


@style
def compare_grid(images: Mapping[str, Any], *, seeds: Sequence[int] = ()) -> Figure:
    """Draw one row per setting, one column per seed: {setting: [N, C, H, W] in [-1, 1]}, the same N seeds in each."""
    tiles = {name: _enlarge(to_rgba(batch), 64) for name, batch in images.items()}
    shapes = {batch.shape for batch in tiles.values()}
    if len(shapes) != 1:
        raise KineticError(f"every setting needs the same images, got shapes {sorted(shapes)}")
    count, high, wide = shapes.pop()[:3]
    left = 8 + 7 * max(len(name) for name in tiles)
    top = _LINE + 8
    ground = np.zeros((top + len(tiles) * (high + 4) + 4, left + max(count, 1) * (wide + 4) + 4, 4))
    for row, batch in enumerate(tiles.values()):
        y = top + row * (high + 4)
        for column, tile in enumerate(batch):
            x = left + column * (wide + 4)
            ground[y : y + high, x : x + wide] = tile
    figure, axes = _canvas(ground)
    for row, name in enumerate(tiles):
        _write(axes, left - 6, top + row * (high + 4) + high / 2, name, ha="right", va="center", fontsize=8.5)
    for column, seed in enumerate(seeds[:count]):
        _write(axes, left + column * (wide + 4) + wide / 2, 6, str(seed) if column else f"seed {seed}")
    return figure
