"""The pictures of a set of samples: a grid of the first ones, and its energies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from kinetic.flow.field import Space
from kinetic.flow.sampling import Sampler
from kinetic.models.autoencoder import Decode
from kinetic.plots import energies_figure, image_grid, save, toy_scatter
from kinetic.samples.pictures import as_shown
from kinetic.samples.table import SampleTable

GRID = 64  # images in a grid
POINTS = 5000  # points of a training set, or of samples, that are drawn


@contextmanager
def sample_grid(
    path: Path, space: Space | None, background: Tensor | None, decode: Decode | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """Draw the first images, or points in the plane before those of a training set, `background` [n, 2].

    Latents are shown as `decode` makes pictures of them, else as the mean of their channels.
    """
    kept: list[Tensor] = []
    most = POINTS if space == "points" else GRID

    def add(x: Tensor) -> None:
        missing = most - sum(map(len, kept))
        if missing > 0:
            kept.append(x[:missing])

    yield add
    samples = torch.cat(kept)
    if space != "points":
        save(image_grid(as_shown(samples, decode)), path)
    elif samples.shape[1] == 2:
        save(toy_scatter(samples, background), path)


def draw_energies(path: Path, table: SampleTable, sampler: Sampler) -> None:
    """Draw the distribution of the energies, and the power over time; under noise that of the field alone."""
    energy, field = (table.columns[name] for name in ("energy", "field_energy"))
    gain = sampler.gains(torch.from_numpy(table.times)) if sampler.noise is None else None
    save(energies_figure(energy, field, table.times, table.power, tau=sampler.kts.tau, gain=gain), path)
