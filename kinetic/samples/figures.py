"""From the parts of a setting to the files that people and other programs read."""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kinetic.data import FlowDataModule
from kinetic.flow.shaping import KTS
from kinetic.memorization.training_set import copies_among, index_of
from kinetic.plots import energies_figure, image_grid, save, toy_scatter
from kinetic.samples.drawing import Plan
from kinetic.samples.export import Part, is_picture, write_energies, write_npz, write_pngs, write_tars

GRID = 64  # samples in grid.png
PROFILE = 4096  # samples behind the power profile
POINTS = 5000  # of a training set in the plane that are drawn
Array = NDArray[np.float64]


def write_files(
    folder: Path,
    plan: Plan,
    setting: str,
    *,
    formats: tuple[str, ...],
    kts: KTS,
    shape: tuple[int, ...],
    data: FlowDataModule | None,
) -> None:
    """Write everything that is made from the parts of `setting`; `data` is drawn behind points in the plane."""
    write_energies(folder / "energies.csv", {setting: plan.parts(setting)})
    if "npz" in formats:
        write_npz(folder / "samples.npz", plan.parts(setting), count=len(plan.seeds))
    if "png" in formats and is_picture(shape):
        write_pngs(folder / "images", plan.parts(setting))
    if "shards" in formats:
        write_tars(folder / "shards", plan.parts(setting))
    _energies(folder / "energies.png", plan, setting, kts)
    _grid(folder / "grid.png", plan, setting, shape, data)


def _energies(path: Path, plan: Plan, setting: str, kts: KTS) -> None:
    times, power = profile(plan, setting)
    energy, field = (column(plan, setting, name) for name in ("energy", "field_energy"))
    gain = None if kts.is_off else kts.gain(torch.from_numpy(times))
    save(energies_figure(energy, field, times, power, tau=kts.tau, gain=gain), path)


def column(plan: Plan, setting: str, name: str) -> Array:
    """One measured energy of all samples, [N]."""
    return np.concatenate([part.energies[name] for part in plan.parts(setting)]).astype(np.float64)


def finite_column(plan: Plan, setting: str, name: str) -> Array:
    """One measured energy of the samples that have a finite one, [n]."""
    values = column(plan, setting, name)
    return values[np.isfinite(values)]


def profile(plan: Plan, setting: str) -> tuple[Array, Array]:
    """Times [T] and the power at them [T, n] of the first samples; interpolated where batches took other steps."""
    parts: list[Part] = []
    for part in plan.parts(setting):
        parts.append(part)
        if sum(len(p.seeds) for p in parts) >= PROFILE:
            break
    times = parts[0].times
    if all(np.array_equal(part.times, times) for part in parts):
        return times, np.concatenate([part.power for part in parts], axis=1)
    common = np.linspace(0, 1, 101)[:-1]
    rows = [np.interp(common, part.times, row) for part in parts for row in part.power.T]
    return common, np.stack(rows, axis=1)


def _grid(path: Path, plan: Plan, setting: str, shape: tuple[int, ...], data: FlowDataModule | None) -> None:
    if len(shape) == 1:
        if shape[0] == 2:
            points = torch.cat([part.images() for part in plan.parts(setting)])
            save(toy_scatter(points, _points(data)), path)
        return
    images: list[torch.Tensor] = []
    for part in plan.parts(setting):
        images.append(part.images()[: GRID - sum(map(len, images))])
        if sum(map(len, images)) >= GRID:
            break
    save(image_grid(torch.cat(images)), path)


def _points(data: FlowDataModule | None) -> torch.Tensor | None:
    return None if data is None else torch.cat([x for x, _, _ in data.reference()])[:POINTS]


def broken(plan: Plan, setting: str) -> list[int]:
    """Seeds of the samples that are not finite."""
    seeds = []
    for part in plan.parts(setting):
        bad = ~np.isfinite(part.energies["energy"])
        if part.x.dtype != np.uint8:
            bad |= ~np.isfinite(part.x.reshape(len(part.x), -1)).all(axis=1)
        seeds += part.seeds[bad].tolist()
    return seeds


def summary(plan: Plan, setting: str) -> str:
    """Mean and spread of the energies of the finite samples, in one line."""
    words = []
    for name, title, scale, unit in (
        ("energy", "energy", 1, ""),
        ("field_energy", "of the field", 1, ""),
        ("late_fraction", "late part", 100, " %"),
    ):
        values = scale * finite_column(plan, setting, name)
        mean, spread = (float(values.mean()), float(values.std())) if values.size else (math.nan, math.nan)
        words.append(f"{title} {mean:.4g} ± {spread:.2g}{unit}")
    return ", ".join(words)


def copies(plan: Plan, setting: str, data: FlowDataModule, device: torch.device) -> str:
    """F_mem in one line."""
    x = torch.cat([part.images() for part in plan.parts(setting)])
    found = copies_among(x, index_of(data, device), plan.seeds)
    return (
        f"F_mem {100 * found.f_mem:.1f} % (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %): "
        f"{found.copied:,} of {found.total:,} are copies from the training set"
    )
