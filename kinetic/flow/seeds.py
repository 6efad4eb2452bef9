"""Which samples to draw: seeds, the label of each, and a loader that deals them to ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kinetic.errors import KineticError
from kinetic.flow.field import check_range

Labels = Literal["balanced"] | int | Sequence[int] | None
MOST = 10**7  # samples at a time
DIGITS = 16  # of a seed
LAST = 2**53 - 1  # the largest seed: beyond it tables of numbers would not tell seeds apart


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
    check_range([int(label) for label in turns], num_classes, null=False)
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


def seed_range(text: str) -> list[int]:
    """Parse seeds such as "0-49999" (both ends included), "1,5,9" or "0-3,10"; repeats and disorder are refused."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise KineticError(f"cannot read seeds {text!r:.80}; write them like 0-49999 or 1,5,9")
        if len(first) > DIGITS or len(last) > DIGITS or int(last or first) > LAST:
            raise KineticError(f"seeds {text!r:.80} are too large; the largest is {LAST:,}")
        span = range(int(first), int(last if dash else first) + 1)
        if not span or (seeds and span[0] <= seeds[-1]):
            raise KineticError(f"seeds {text!r:.80} must rise without repeats, like 0-49999 or 1,5,9")
        if len(seeds) + len(span) > MOST:
            raise KineticError(f"seeds {text!r:.80} are too many; at most {MOST:,} are drawn at a time")
        seeds.extend(span)
    return seeds


def check_count(num: int, name: str) -> int:
    """Return a number of samples, the option `name`, that can be drawn at a time; KineticError otherwise."""
    if not 1 <= num <= MOST:
        raise KineticError(f"{name} must be 1 to {MOST:,}, got {num!s:.40}")
    return num


def seed_text(seeds: Sequence[int]) -> str:
    """Write rising seeds as `seed_range` reads them: 0-63,70."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass(frozen=True, kw_only=True)
class ValidationSampling:
    """The samples drawn in every validation: the same seeds each time, so that one can be followed over epochs.

    Attributes:
        num: how many; 0 draws none.
        first_seed: they have the seeds first_seed, ..., first_seed + num - 1.
        labels: one class, a list of classes that take turns, or "balanced".
        batch_size: drawn at a time, on each device.
        precision: of the network while sampling, "32" or "bf16"; states and energies stay float32.
        measures: further numbers for each sample: class paths of `kinetic.flow.measures.Measure`, or class_path and
            init_args of such.
    """

    num: int = 256
    first_seed: int = 0
    labels: Literal["balanced"] | int | list[int] = "balanced"
    batch_size: int = 256
    precision: Literal["32", "bf16"] = "32"
    measures: tuple[str | dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.num:
            check_count(self.num, "model.samples.num")
        if not 0 <= self.first_seed <= LAST - self.num:
            raise KineticError(f"model.samples.first_seed must be 0 to {LAST - self.num:,}, got {self.first_seed}")
        if self.batch_size < 1:
            raise KineticError(f"model.samples.batch_size must be at least 1, got {self.batch_size}")
