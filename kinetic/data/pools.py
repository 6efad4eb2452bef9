"""Where images come from: a pool knows its ids and labels, serves training batches and exact passes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from kinetic.data.latents import Latents
from kinetic.data.pixels import from_uint8
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.tensors import chunks, generator

ORDER, FLIP, SUBSET = 1, 2, 3  # what a generator is for, part of its key


class BatchOrder:
    """Which images every training batch holds, a function of (seed, batch number, rank) alone.

    The permutations of the subset, one for each pass over it, are laid end to end and cut into global batches, and
    these into the ranks' shares: no image is left out however the sizes divide, and the union over the ranks does
    not depend on how many there are.
    """

    def __init__(
        self, subset: Tensor, *, batch: int, per_epoch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        """BatchOrder over `subset` [N] (pool indices); `batch` images a rank, `per_epoch` batches in an epoch."""
        if len(subset) == 0:
            raise KineticError("there is no image to train on: the training subset is empty")
        self.subset, self.batch, self.per_epoch = subset, batch, per_epoch
        self.seed, self.rank, self.world = seed, rank, world
        self._orders: dict[int, Tensor] = {}

    def indices(self, number: int) -> Tensor:
        """Pool indices [batch] of this rank's batch `number`, counted from the start of training."""
        share = torch.arange(self.batch) + (number * self.world + self.rank) * self.batch
        rounds, places = share // len(self.subset), share % len(self.subset)
        self._orders = {r: self._order(r) for r in rounds.unique().tolist()}
        rows = torch.empty_like(places)
        for round_, order in self._orders.items():
            rows[rounds == round_] = order[places[rounds == round_]]
        return self.subset[rows]

    def flips(self, number: int) -> Tensor:
        """Which images of this rank's batch `number` are mirrored: bool [batch], true with probability 1/2."""
        draws = torch.rand(self.world * self.batch, generator=generator(self.seed, FLIP, number)) < 0.5
        return draws[self.rank * self.batch : (self.rank + 1) * self.batch]

    def _order(self, round_: int) -> Tensor:
        if round_ in self._orders:
            return self._orders[round_]
        return torch.randperm(len(self.subset), generator=generator(self.seed, ORDER, round_))


class Pool(ABC):
    """Images with stable ids. Raw images are uint8 [n, H, W, C], or float32 [n, ...] where they are not pictures."""

    ids: Sequence[str]  # one a image
    labels: Tensor | None  # int64 [N]
    shape: tuple[int, ...]  # of one image as the network sees it: (C, H, W) or (D,)
    in_memory = False
    pictures = True  # whether images can be mirrored

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def batches(self, plan: BatchOrder, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (raw images [B, ...], pool indices int64 [B]) for the training batches `start` to `stop` of `plan`."""

    @abstractmethod
    def chunks(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Yield the raw images at the ascending `indices` [n], in that order, at most `size` at a time."""


@dataclass(frozen=True)
class Source:
    """What a data set consists of: the images to train on, and the held-out ones where it comes with such."""

    train: Pool
    test: Pool | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    latents: Latents | None = None  # of which autoencoder the samples are


class ArrayPool(Pool):
    """Images in memory: `images` uint8 [N, H, W, C], or float32 [N, ...] as it is."""

    in_memory = True

    def __init__(self, images: Tensor, *, ids: Sequence[str], labels: Tensor | None = None) -> None:
        self.images, self.ids, self.labels = images, ids, labels
        self.shape = tuple(to_float(images[:1]).shape[1:])
        self.pictures = images.dtype == torch.uint8

    def batches(self, plan: BatchOrder, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Index the array."""
        for number in range(start, stop):
            indices = plan.indices(number)
            yield self.images[indices], indices

    def chunks(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Index the array."""
        for part in chunks(len(indices), size):
            yield self.images[indices[part]]


class CachedPool(Pool):
    """Another pool whose images at `indices` [n] (ascending) are decoded once, on first use, and kept in memory."""

    def __init__(self, pool: Pool, indices: Tensor) -> None:
        self.pool, self.indices = pool, indices
        self.ids, self.labels, self.shape, self.pictures = pool.ids, pool.labels, pool.shape, pool.pictures
        self._raw: Tensor | None = None

    def batches(self, plan: BatchOrder, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Index the images in memory."""
        raw = self._decoded()
        for number in range(start, stop):
            indices = plan.indices(number)
            yield raw[torch.searchsorted(self.indices, indices)], indices

    def chunks(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Index the images in memory; those that are not kept come from the other pool."""
        if not bool(torch.isin(indices, self.indices).all()):
            yield from self.pool.chunks(indices, size)
            return
        raw, rows = self._decoded(), torch.searchsorted(self.indices, indices)
        for part in chunks(len(rows), size):
            yield raw[rows[part]]

    def _decoded(self) -> Tensor:
        if self._raw is None:
            total = len(self.indices)
            with progress("decoding images", "images", total=total) as bar:
                done = 0
                for part in self.pool.chunks(self.indices, 256):
                    if self._raw is None:
                        self._raw = part.new_empty(total, *part.shape[1:])
                    self._raw[done : done + len(part)] = part
                    done += len(part)
                    bar.update(len(part))
            assert self._raw is not None
        return self._raw


def stacked(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Stack single images to batches of `size`, the last one smaller."""
    rest = iter(images)
    while part := list(islice(rest, size)):
        yield torch.stack(part)


def to_float(raw: Tensor) -> Tensor:
    """Raw images as the network sees them: uint8 [n, H, W, C] -> float32 [n, C, H, W] in [-1, 1], floats unchanged."""
    return from_uint8(raw) if raw.dtype == torch.uint8 else raw.float()
