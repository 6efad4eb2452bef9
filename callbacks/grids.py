"""The pictures of a validation: samples by rising energy, and copies beside the training images they copy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kinetic.plots import gallery, image_grid, save, toy_scatter
from kinetic.units import unit_beside

COLUMNS = 10


def by_energy(energy: NDArray[np.float64], *, extremes: int, middle: int) -> NDArray[np.int64]:
    """Choose rows [n] by rising energy [N]: the lowest and highest `extremes`, and `middle` evenly spaced between.

    Energies that are not finite are passed over; with few samples all are chosen.
    """
    order = np.argsort(energy, kind="stable")
    order = order[np.isfinite(energy[order])]
    if len(order) <= 2 * extremes + middle:
        return order
    inner = order[extremes : len(order) - extremes]
    spaced = inner[((np.arange(middle) + 0.5) * len(inner) / max(middle, 1)).astype(int)]
    return np.concatenate([order[:extremes], spaced, order[len(order) - extremes :]])


def picture_path(folder: Path, kind: str, step: int) -> Path:
    """Where the picture of a step lies: KIND/step_0000400.png."""
    return folder / kind / f"step_{step:07d}.png"


def drawable(shape: Sequence[int]) -> bool:
    """Whether samples [N, ...] of this shape can be shown: images, or points in the plane."""
    return len(shape) == 4 or (len(shape) == 2 and shape[1] == 2)


def write_grid(path: Path, samples: Tensor, seeds: NDArray[np.int64], energy: NDArray[np.float64], total: int) -> None:
    """Draw samples [n, ...] in the order given, images each over its seed and energy."""
    if samples.ndim == 2:
        save(toy_scatter(samples.float(), title="samples"), path)
        return
    captions = [f"seed {seed}\nE {value:.3g}" for seed, value in zip(seeds, energy, strict=True)]
    some = f"{len(seeds)} of {total:,} samples" if len(seeds) < total else f"{total:,} samples"
    title = f"{some} by kinetic energy E{unit_beside()}: the lowest first, the highest last"
    save(image_grid(samples.float(), captions, columns=COLUMNS, title=title), path)


def write_gallery(
    path: Path,
    samples: Tensor,
    neighbours: Tensor,
    *,
    seeds: NDArray[np.int64],
    energy: NDArray[np.float64],
    ratio: NDArray[np.float64],
    copied: NDArray[np.bool_],
) -> None:
    """Draw samples [n, C, H, W] beside their nearest training images, copies framed."""
    captions = [f"seed {s}, E {e:.3g}\nd₁/d₂ {r:.2f}" for s, e, r in zip(seeds, energy, ratio, strict=True)]
    title = "left: generated, right: nearest training image; framed: copies"
    save(gallery(samples.float(), neighbours.float(), captions, title=title, marked=copied.tolist()), path)
