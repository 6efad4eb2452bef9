"""The energy balance of anything that can be followed, after the fact."""

import torch

from kinetic.data import FlowDataModule
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.memorization.balance import BINS, Balance, energy_balance, refusal
from kinetic.models.opening import Origin
from kinetic.samples.balance import spent_by
from kinetic.samples.table import SampleTable
from kinetic.training.balancing import joined, rows_of_images


def check_balance(origin: Origin, data: FlowDataModule, sampler: Sampler) -> None:
    """Raise KineticError where there is no balance: under guidance, shaping, an early stop, or with other images."""
    field, why = origin.field, refusal(sampler)
    if why is not None:
        raise KineticError(f"there is no energy balance: {why}")
    if field.shape != tuple(data.shape):
        raise KineticError(f"the data has shape {tuple(data.shape)}, but {origin.name} makes {field.shape}")
    if field.num_classes is not None and data.num_classes != field.num_classes:
        have = data.num_classes or "none"
        raise KineticError(
            f"{origin.name} knows {field.num_classes:,} classes, by which images are asked: these have {have}"
        )


def balance_of(
    origin: Origin,
    data: FlowDataModule,
    table: SampleTable,
    *,
    images: int = 256,
    bins: int = BINS,
    device: torch.device | str = "cpu",
) -> Balance:
    """Balance what samples spent, by their table, with held-out and training images of `data`; see `check_balance`."""
    field = origin.field
    rows = rows_of_images(field, data, images=images, path=field.path, coupling=origin.coupling, device=device)
    held, train = joined([rows], origin.coupling)
    return energy_balance(spent_by(table, tuple(data.shape)), held, train, bins=bins)
