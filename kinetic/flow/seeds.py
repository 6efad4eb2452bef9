"""Which samples to draw: seeds, the label of each, and a loader that deals them to ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kinetic.errors import KineticError

Labels = Literal["balanced"] | int | Sequence[int] | None


def labels_for(seeds: Tensor, labels: Labels, num_classes: int | None) -> Tensor | None:
    """Label of each seed [N] -> int64 [N], or None for an unconditional network.

    `labels` is one class, several that take turns, or "balanced" (all classes take turns). The label is a function of
    the seed alone: seed s gets entry s mod the number of classes that take turns.
    """
    if num_classes is None:
        if labels not in (None, "balanced"):
            raise KineticError(f"labels {labels!r} given, but the network is unconditional; leave them out")
        return None
    turns = (
        list(range(num_classes)) if labels in (None, "balanced") else [labels] if isinstance(labels, int) else labels
    )
    outside = [label for label in turns if not 0 <= int(label) < num_classes]
    if outside:
        raise KineticError(f"label {outside[0]} is outside the range of the network's classes, 0 to {num_classes - 1}")
    table = torch.tensor([int(label) for label in turns], dtype=torch.int64)
    return table[seeds % len(table)]


class SeedDataset(Dataset):
    """The share of one rank in a list of seeds, padded by repeats so that every rank has equally many.

    Items are {"seeds": int, "labels": int or None}. Whoever gathers the rows drops repeats by seed.
    """

    def __init__(self, seeds: Tensor, labels: Tensor | None, *, rank: int = 0, world: int = 1) -> None:
        padding = -len(seeds) % world
        order = torch.cat([torch.arange(len(seeds)), torch.arange(padding) % max(len(seeds), 1)])[rank::world]
        self.seeds = seeds[order]
        self.labels = None if labels is None else labels[order]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> dict[str, int | None]:
        label = None if self.labels is None else int(self.labels[index])
        return {"seeds": int(self.seeds[index]), "labels": label}


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor | None]:
    """Stack items of a SeedDataset: seeds int64 [B], labels int64 [B] or None."""
    seeds = torch.tensor([item["seeds"] for item in items], dtype=torch.int64)
    if items[0]["labels"] is None:
        return {"seeds": seeds, "labels": None}
    return {"seeds": seeds, "labels": torch.tensor([item["labels"] for item in items], dtype=torch.int64)}


def seed_loader(
    seeds: Sequence[int] | Tensor,
    *,
    labels: Labels = "balanced",
    num_classes: int | None = None,
    batch_size: int = 256,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """Deal `seeds` to `world` ranks in batches {"seeds": int64 [B], "labels": int64 [B] or None}."""
    if batch_size < 1:
        raise KineticError(f"batch_size must be at least 1, got {batch_size}")
    wanted = torch.as_tensor(seeds, dtype=torch.int64)
    dataset = SeedDataset(wanted, labels_for(wanted, labels, num_classes), rank=rank, world=world)
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collate)


@dataclass(frozen=True, kw_only=True)
class ValidationSampling:
    """The samples drawn in every validation: the same seeds each time, so that one can be followed over epochs.

    Attributes:
        num: how many; 0 draws none.
        first_seed: they have the seeds first_seed, ..., first_seed + num - 1.
        labels: one class, a list of classes that take turns, or "balanced".
        batch_size: drawn at a time, on each device.
        precision: of the network while sampling, "32" or "bf16"; states and energies stay float32.
        renoise: measure the re-noising response of every sample too, at 0.6 of the cost of drawing it.
    """

    num: int = 256
    first_seed: int = 0
    labels: Literal["balanced"] | int | list[int] = "balanced"
    batch_size: int = 256
    precision: Literal["32", "bf16"] = "32"
    renoise: bool = False
