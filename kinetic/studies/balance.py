"""The energy balance of anything that can be followed, after the fact."""

from collections.abc import Iterator, Sequence

import torch

from kinetic.data import FlowDataModule
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.seeds import Labels, seed_loader
from kinetic.memorization.balance import BINS, Balance, energy_balance, refusal
from kinetic.models.opening import Origin
from kinetic.samples.balance import spent_by
from kinetic.samples.table import SampleTable
from kinetic.training.balancing import joined, rows_of_images


def balance_of(
    origin: Origin,
    data: FlowDataModule,
    *,
    seeds: Sequence[int],
    sampler: Sampler,
    images: int = 256,
    bins: int = BINS,
    labels: Labels = "balanced",
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Balance:
    """Draw samples of `seeds` and balance what they spend with held-out and training images of `data`.

    Raises KineticError where the identity does not hold: under guidance, shaping, or a flow that is stopped early.
    """
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
    rows = rows_of_images(field, data, images=images, path=field.path, coupling=origin.coupling, device=device)
    held, train = joined([rows], origin.coupling)
    drawn = _drawn(origin, seeds, sampler, labels=labels, batch_size=batch_size, device=device)
    return energy_balance(spent_by(SampleTable.join(list(drawn)), tuple(data.shape)), held, train, bins=bins)


def _drawn(
    origin: Origin,
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    labels: Labels,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[SampleTable]:
    classes = origin.field.num_classes
    loader = seed_loader(seeds, labels=labels if classes else None, num_classes=classes, batch_size=batch_size)
    for batch in progress("drawing", "batches", over=loader):
        found = draw(origin.field, batch["seeds"].tolist(), labels=batch["labels"], sampler=sampler, device=device)
        yield SampleTable.of(found, batch["seeds"], batch["labels"])
