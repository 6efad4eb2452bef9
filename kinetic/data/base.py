"""What every data set of the project can do, as a LightningDataModule."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from kinetic.data.latents import Latents
from kinetic.data.loader import TrainLoader, ValLoader
from kinetic.data.options import switch, whole
from kinetic.data.pools import SUBSET, BatchOrder, Pool, Source, kept, to_float
from kinetic.errors import KineticError
from kinetic.ranks import bounds
from kinetic.tensors import chunks, generator
from kinetic.trust import OWN, Trust

CACHE_BYTES = 2**29
Chunk = tuple[Tensor, Tensor, list[str]]  # images float32 [n, ...] in [-1, 1], indices int64 [n], ids


class FlowDataModule(LightningDataModule):
    """Images to train on, images held out, and the training images once more as a reference set.

    After `setup`: `shape` is (C, H, W) or (D,), `num_classes` and `class_names` are None without labels,
    `subset_ids` names the training images in the order of their indices. A subclass says what its images are
    (`load`), and passes on the options here.
    """

    name = "data"
    trust: Trust = OWN  # what may be opened; whoever opens a saved configuration sets another before `setup`
    shape: tuple[int, ...]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    subset_ids: list[str]
    latents: Latents | None = None  # of which autoencoder, where they are latents and it is known

    def __init__(
        self,
        *,
        batch_size: int = 128,
        num_train: int | None = None,
        num_val: int = 256,
        size: int | None = None,
        grayscale: bool = False,
        flip: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        steps_per_epoch: int | None = None,
        cache: bool | None = None,
    ) -> None:
        """Say what to train on.

        Args:
            batch_size: images of one optimiser step, over all devices and accumulated batches.
            num_train: train on a fixed, seeded subset of this many images (all of them by default).
            num_val: held-out images in the validation loss, fewer where there are fewer.
            size: resize the shorter side to this many pixels and cut out the centre.
            grayscale: turn pictures to one channel.
            flip: mirror every other training image at random; the reference then holds both.
            seed: of the subset, the order and the flips.
            num_workers: processes that decode images, a device; images in memory need none.
            steps_per_epoch: optimiser steps that count as an epoch (by default as many as see num_train images).
            cache: decode each training image once and keep it in memory (by default where that takes < 512 MiB).
        """
        super().__init__()
        whole("batch_size", batch_size, 1, 2**20)
        whole("num_val", num_val, 0, 10**9)
        whole("num_workers", num_workers, 0, 512)
        whole("seed", seed, -(2**63), 2**63 - 1)
        for option, value, most in [
            ("num_train", num_train, 10**9),
            ("size", size, 2**14),
            ("steps_per_epoch", steps_per_epoch, 10**9),
        ]:
            if value is not None:
                whole(option, value, 1, most)
        switch("grayscale", grayscale)
        switch("flip", flip)
        if cache is not None:
            switch("cache", cache)
        self.batch_size, self.num_train, self.num_val = batch_size, num_train, num_val
        self.size, self.grayscale, self.flip, self.seed = size, grayscale, flip, seed
        self.num_workers, self.steps_per_epoch, self.cache = num_workers, steps_per_epoch, cache
        self._source: Source | None = None

    @abstractmethod
    def load(self) -> Source:
        """Open the data set: at the size and with the channels that were asked for."""

    def setup(self, stage: str | None = None) -> None:
        """Open the data set and choose the training subset; a second call does nothing."""
        if self._source is not None:
            return
        source = self.load()
        pool, total = source.train, len(source.train)
        if self.flip and not pool.pictures:
            raise KineticError(f"flip=True but {self.name} has no pictures to mirror: pass flip=False")
        spare = 0 if source.test is not None else min(self.num_val, total // 2)
        wanted = total - spare if self.num_train is None else self.num_train
        if wanted > total:
            raise KineticError(self._too_large(total, source.test))
        order = torch.randperm(total, generator=generator(self.seed, SUBSET))
        self._subset = order[:wanted].sort().values
        self._rest = order[wanted:] if source.test is None else self._shuffled(source.test)
        self._held: Pool = pool if source.test is None else source.test
        self.subset_ids = [pool.ids[i] for i in self._subset.tolist()]
        self.shape, self.num_classes, self.class_names = pool.shape, source.num_classes, source.class_names
        self.latents = source.latents
        self._training = kept(pool, self._subset) if self._cached(pool) else pool
        self._source, self._source_pool = source, pool

    def train_loader(self, *, rank: int = 0, world: int = 1, accumulate: int = 1, limit: float = 1.0) -> TrainLoader:
        """Make the loader of one rank; `limit` is the trainer's `limit_train_batches`."""
        self.setup()
        parts = world * accumulate
        if self.batch_size % parts:
            raise KineticError(
                f"batch_size={self.batch_size} does not divide by {world} devices x {accumulate} accumulated batches:"
                f" pass a multiple of {parts}, such as {-(-self.batch_size // parts) * parts}"
            )
        steps = self.steps_per_epoch or -(-len(self._subset) // self.batch_size)
        length = steps * accumulate
        epoch = min(limit, length) if isinstance(limit, int) else int(length * limit)
        plan = BatchOrder(
            self._subset,
            batch=self.batch_size // parts,
            per_epoch=max(int(epoch), 1),
            seed=self.seed,
            rank=rank,
            world=world,
        )
        return TrainLoader(self._training, plan, flip=self.flip, length=length)

    def val_loader(self, *, rank: int = 0, world: int = 1) -> ValLoader:
        """Make one rank's loader of `num_val` held-out images."""
        self.setup()
        indices = self._rest[: self.num_val].sort().values
        return ValLoader(self._held, indices, batch=max(self.batch_size // world, 1), rank=rank, world=world)

    def train_dataloader(self) -> TrainLoader:
        """Make the training loader of this process, at the batch where training stands."""
        trainer = self.trainer
        if trainer is None:
            return self.train_loader()
        loader = self.train_loader(
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
            limit=trainer.limit_train_batches or 1.0,
        )
        # a run that goes on from the end of an epoch is not given the loader's own state by Lightning
        loader.batches = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return loader

    def val_dataloader(self) -> list[Iterable[Any]]:
        """Make the held-out loader, and behind it the network module's own `seed_loader()` where it has one."""
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        loaders: list[Iterable[Any]] = [self.val_loader(rank=rank, world=world)]
        make_seeds = getattr(getattr(trainer, "lightning_module", None), "seed_loader", None)
        seeds = make_seeds() if make_seeds is not None else None
        return loaders if seeds is None else [*loaders, seeds]

    @property
    def num_reference(self) -> int:
        """How many images `reference()` yields, mirrored ones included."""
        self.setup()
        return len(self._subset) * (2 if self.flip else 1)

    def reference(
        self, *, chunk: int = 1024, flips: bool | None = None, rank: int = 0, world: int = 1
    ) -> Iterator[Chunk]:
        """Yield the training images, each exactly once over all ranks, in a fixed order and a chunk at a time.

        A rank's images follow one another, so that it opens no more files than hold them.
        An index is the image's row in `subset_ids`. With `flips` (by default where training flips) every chunk is
        followed by the same one mirrored, with the same indices and ids.
        """
        self.setup()
        rows = torch.arange(*bounds(len(self._subset), rank, world))
        for x, part in self._exact(self._training, self._subset[rows], chunk):
            ids = [self.subset_ids[i] for i in rows[part].tolist()]
            yield x, rows[part], ids
            if self.flip if flips is None else flips:
                yield x.flip(-1), rows[part], ids

    def held_out(
        self, limit: int | None = None, *, chunk: int = 1024, rank: int = 0, world: int = 1
    ) -> Iterator[Chunk]:
        """Yield held-out images as `reference` does, never mirrored: a seeded choice of at most `limit`."""
        self.setup()
        chosen = self._rest[:limit].sort().values
        rows = torch.arange(*bounds(len(chosen), rank, world))
        for x, part in self._exact(self._held, chosen[rows], chunk):
            yield x, rows[part], [self._held.ids[i] for i in chosen[rows[part]].tolist()]

    @property
    def num_training(self) -> int:
        """How many training images there are."""
        self.setup()
        return len(self._subset)

    @property
    def num_held_out(self) -> int:
        """How many held-out images there are."""
        self.setup()
        return len(self._rest)

    def labelled(
        self, *, held_out: bool, limit: int, chunk: int = 128, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield (images, their numbers [b], labels int64 [b] or None) of at most `limit` images, a seeded choice.

        Held-out images are those of `held_out(limit)`; else they are training images, never mirrored. Whole chunks
        are dealt to the ranks in turn, so that what is in a chunk does not depend on how many there are.
        """
        self.setup()
        pool, order = (self._held, self._rest) if held_out else (self._training, self._subset[self._some_order()])
        chosen = order[:limit].sort().values
        for number, part in enumerate(chunks(len(chosen), chunk)):
            if number % world == rank:
                x = torch.cat([images for images, _ in self._exact(pool, chosen[part], chunk)])
                yield x, torch.arange(len(chosen))[part], None if pool.labels is None else pool.labels[chosen[part]]

    def _some_order(self) -> Tensor:
        return torch.randperm(len(self._subset), generator=generator(self.seed, SUBSET, 2))

    def splits(self, *, apart: bool = False) -> list[tuple[str, Pool, Tensor]]:
        """What there is to copy: ("train", pool, ascending indices) and, if the data set comes with one, ("test", ...).

        The training images are the subset where there is a `num_train`, else all of them. With `apart` the held-out
        images are a test split where the data set comes with none.
        """
        self.setup()
        if apart and self._held is self._source_pool and len(self._rest):
            return [("train", self._training, self._subset), ("test", self._held, self._rest.sort().values)]
        if self._held is not self._source_pool:
            return [("train", self._training, self._subset), ("test", self._held, torch.arange(len(self._held)))]
        everything = torch.arange(len(self._held))
        return [("train", self._training, self._subset if self.num_train is not None else everything)]

    @staticmethod
    def _exact(pool: Pool, indices: Tensor, chunk: int) -> Iterator[tuple[Tensor, slice]]:
        done = 0
        for raw in pool.chunks(indices, chunk):
            yield to_float(raw), slice(done, done + len(raw))
            done += len(raw)

    def _shuffled(self, pool: Pool) -> Tensor:
        return torch.randperm(len(pool), generator=generator(self.seed, SUBSET, 1))

    def _too_large(self, total: int, test: Pool | None) -> str:
        more = f" to train on ({len(test)} more are held out)" if test is not None else ""
        return (
            f"num_train={self.num_train} but {self.name} has {total} images{more}: pass num_train of {total} or fewer"
        )

    def _cached(self, pool: Pool) -> bool:
        small = len(self._subset) * math.prod(pool.shape) * (1 if pool.pictures else 4) < CACHE_BYTES
        return not pool.in_memory and (small if self.cache is None else self.cache)
