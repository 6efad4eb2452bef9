"""Where images come from: a pool knows its ids and labels, serves training batches and exact passes."""

from abc import ABC, abstractmethod
from collections import deque
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


class LoosePool(Pool):
    """Images that can be had in any order, a few at a time."""

    @abstractmethod
    def some(self, groups: Iterable[list[int]]) -> Iterator[Tensor]:
        """Yield the raw images [n, ...] at each group of pool indices, which may be asked for a few groups ahead."""


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


class LazyPool(Pool):
    """A loose pool whose images at `indices` [n] (ascending) are kept in memory from their first use on."""

    def __init__(self, pool: LoosePool, indices: Tensor) -> None:
        self.pool, self.indices = pool, indices
        self.ids, self.labels, self.shape, self.pictures = pool.ids, pool.labels, pool.shape, pool.pictures
        self._raw = torch.empty(0)
        self._have = torch.zeros(len(indices), dtype=torch.bool)

    def batches(self, plan: BatchOrder, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Index the images in memory, and decode those of the plan that are not."""
        waiting: deque[tuple[Tensor, Tensor, Tensor]] = deque()
        asked = self._have.clone()

        def groups() -> Iterator[list[int]]:
            for number in range(start, stop):
                indices = plan.indices(number)
                rows = torch.searchsorted(self.indices, indices)
                new = rows[~asked[rows]].unique()
                asked[new] = True
                waiting.append((indices, rows, new))
                yield self.indices[new].tolist()

        whole = bool(self._have.all())
        for images in (self._raw[:0] for _ in groups()) if whole else self.pool.some(groups()):
            indices, rows, new = waiting.popleft()
            self._keep(new, images)
            yield self._raw[rows], indices

    def chunks(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Decode what is missing and index the images in memory; those not to be kept come from the other pool."""
        if not bool(torch.isin(indices, self.indices).all()):
            yield from self.pool.chunks(indices, size)
            return
        rows = torch.searchsorted(self.indices, indices)
        missing = rows[~self._have[rows]]
        if len(missing):
            parts = missing.split(64)
            with progress("decoding images", "images", total=len(missing)) as bar:
                for part, images in zip(parts, self.pool.some(self.indices[p].tolist() for p in parts), strict=True):
                    self._keep(part, images)
                    bar.update(len(part))
        for chunk in chunks(len(rows), size):
            yield self._raw[rows[chunk]]

    def _keep(self, rows: Tensor, images: Tensor) -> None:
        if not len(rows):
            return
        if not len(self._raw):
            self._raw = images.new_empty(len(self.indices), *images.shape[1:])
        self._raw[rows], self._have[rows] = images, True


def kept(pool: Pool, indices: Tensor) -> Pool:
    """A pool that keeps the images at `indices` (ascending) in memory."""
    return LazyPool(pool, indices) if isinstance(pool, LoosePool) else CachedPool(pool, indices)


def stacked(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Stack single images to batches of `size`, the last one smaller."""
    rest = iter(images)
    while part := list(islice(rest, size)):
        yield torch.stack(part)


def to_float(raw: Tensor) -> Tensor:
    """Raw images as the network sees them: uint8 [n, H, W, C] -> float32 [n, C, H, W] in [-1, 1], floats unchanged."""
    return from_uint8(raw) if raw.dtype == torch.uint8 else raw.float()
