"""Log-likelihood of samples, held-out and training images under a model's own flow, and how energies go with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.flow.empirical import NO_DENSITY, EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.likelihood import bits_per_dim, dequantised, log_likelihood
from kinetic.flow.sampling import Sampler
from kinetic.metrics.detection import mean_estimate
from kinetic.metrics.ranks import Array, kendall_estimate, spearman_estimate
from kinetic.models.opening import Origin
from kinetic.report.findings import Cell, attempt

ENERGIES = ("energy", "early", "late")


@dataclass(frozen=True, kw_only=True)
class Densities:
    """Log-likelihoods in nats, and energies, [N] each, by the same flow."""

    log_p: Array
    energies: Mapping[str, Array]


def check_density(origin: Origin) -> None:
    """Raise KineticError for what has no density."""
    if isinstance(origin.field.net, EmpiricalVelocity):
        raise KineticError(f"the closed-form field has no likelihood: {NO_DENSITY}; study a network instead")


def densities_of_images(
    origin: Origin,
    data: FlowDataModule,
    *,
    held_out: bool,
    images: int,
    sampler: Sampler,
    probes: int,
    batch_size: int = 64,
    precision: str = "32",
    device: torch.device | str = "cpu",
) -> Densities:
    """Follow at most `images` held-out or training images back to their noise; pixels get the noise of one level."""
    total = min(images, data.num_held_out if held_out else data.num_training)
    kind = "held-out" if held_out else "training"
    if not total:
        raise KineticError(f"{data.name} has no {kind} images; hold some out, or leave them")
    found = []
    with progress(f"following {kind} images back", "images", total=total) as bar:
        for x, numbers, labels in data.labelled(held_out=held_out, limit=images, chunk=batch_size):
            x = dequantised(x, numbers) if origin.field.space == "pixels" else x
            known = labels_of_images(origin.field, labels)
            how = {"sampler": sampler, "probes": probes, "precision": precision}
            back = log_likelihood(origin.field, x.to(device), labels=known, **how)  # type: ignore[arg-type]
            found.append({name: back.columns[name].double().cpu().numpy() for name in ("log_likelihood", *ENERGIES)})
            bar.update(len(x))
    columns = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return Densities(log_p=columns.pop("log_likelihood"), energies=columns)


def labels_of_images(field: Field, labels: Tensor | None) -> Tensor | None:
    """The classes of images as far as a field knows classes; KineticError where it needs those of images without."""
    if field.num_classes is None:
        return None
    if labels is None and not field.null_label:
        raise KineticError("the network has to be told classes, and these images have none; study it on labelled ones")
    return labels


def density_row(name: str, found: Densities, *, size: int, pixels: bool) -> dict[str, Cell]:
    """Mean log-likelihood per dimension, in bits too where levels are known, and mean energy."""
    bits = bits_per_dim(torch.from_numpy(found.log_p), size).numpy()
    return {
        "of": name,
        "count": int(np.isfinite(found.log_p).sum()),
        "nats_per_dim": mean_estimate(found.log_p / size),
        **({"bits_per_dim": mean_estimate(bits)} if pixels else {}),
        "energy": mean_estimate(found.energies["energy"]),
    }


def correlations(name: str, found: Densities) -> list[dict[str, Cell]]:
    """Rank correlation of each energy with the log-likelihood; a note where it is undefined."""
    made = []
    for energy in ENERGIES:
        row: dict[str, Cell] = {"of": name, "energy": energy}
        made.append(attempt(row, partial(_correlated, found.energies[energy], found.log_p)))
    return made


def _correlated(values: Array, log_p: Array) -> dict[str, Cell]:
    return {"spearman": spearman_estimate(values, log_p), "kendall": kendall_estimate(values, log_p)}
