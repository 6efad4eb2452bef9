"""Shards: webdataset tars, streamed. Training streams go on for ever; exact passes see every image once."""

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kinetic.data.base import Chunk, FlowDataModule
from kinetic.data.decoding import Decoder, Index, index_shards
from kinetic.data.latents import MIRRORED, Latents
from kinetic.data.names import shown
from kinetic.data.options import MOST_CLASSES, factor, switch, text, whole
from kinetic.data.pools import ORDER, BatchOrder, Pool, Source, stacked, to_float
from kinetic.data.sources import Shard, find_shards
from kinetic.data.tars import DamagedShard, read_samples
from kinetic.data.workers import delivered
from kinetic.errors import KineticError
from kinetic.tensors import generator, seed_from

Item = tuple[int, str, dict[str, bytes]]  # pool index, id, bytes by kind
BUFFER_BYTES = 2**31  # of the encoded samples that one stream mixes
WAITING_BYTES = 2**31  # of the decoded images that wait for those before them


class ShardPool(Pool):
    """Samples of tars, read from front to back by `workers` processes that mix `shuffle` of them in a buffer."""

    def __init__(
        self, index: Index, decoder: Decoder, *, workers: int = 0, shuffle: int = 2000, skip_bad: bool = False
    ) -> None:
        """Serve the samples of `index`; the first one says what shape all of them have."""
        self.index, self.decoder, self.workers = index, decoder, workers
        self.shuffle, self.skip_bad = shuffle, skip_bad
        self.ids, self.labels = index.ids, index.labels
        self.starts = [0]
        for keys in index.keys:
            self.starts.append(self.starts[-1] + len(keys))
        full = next(s for s, keys in enumerate(index.keys) if keys)
        _, name, sample = next(self.samples(full))
        first = decoder(name, sample)
        self.decoder = replace(decoder, shape=tuple(first.shape))
        self.pictures = first.dtype == torch.uint8
        self.shape = tuple(to_float(first.unsqueeze(0)).shape[1:])

    def samples(self, shard: int) -> Iterator[Item]:
        """Read one shard: what its index lists, in the order of the tar."""
        place = {key: self.starts[shard] + n for n, key in enumerate(self.index.keys[shard])}
        url = shown(self.index.shards[shard].url)
        try:
            for key, sample in read_samples(self.index.shards[shard]):
                where = place.pop(key, None)
                if where is not None:
                    yield where, self.ids[where], sample
                elif not self.skip_bad:
                    raise KineticError(
                        f"shard {url} holds more of sample {shown(key)} than was listed: its members do not follow one"
                        " another, or its manifest is of another shard; write both again, sorted by name"
                    )
        except DamagedShard:
            if not self.skip_bad:
                raise
        if place:
            raise KineticError(
                f"shard {url} no longer holds sample {next(iter(place))}: write it and its manifest again"
            )

    def chunks(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Read the shards that hold `indices` one after another; each image is decoded once and in order."""
        yield from stacked(self._exact(indices), size)

    def batches(self, plan: BatchOrder, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Stream the batches of one epoch; a share of the shards for each rank and worker."""
        workers = self._useful_workers(plan)
        stream = TrainStream(self, plan, start, stop)
        # batches come from the workers in turn; the generator keeps the network's random state out of it
        loader = DataLoader(stream, batch_size=None, num_workers=workers, generator=torch.Generator())
        for item in delivered(loader, workers):
            if isinstance(item, str):
                raise KineticError(item)
            yield item

    def wanted(self, plan: BatchOrder) -> Tensor:
        """How many images of the training subset each shard holds, int64 [S]."""
        ends = torch.tensor(self.starts[1:])
        return torch.bincount(torch.searchsorted(ends, plan.subset, right=True), minlength=len(ends))

    def _exact(self, indices: Tensor) -> Iterator[Tensor]:
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[indices] = True
        for shard in range(len(self.index.shards)):
            part = mask[self.starts[shard] : self.starts[shard + 1]].tolist()
            if not any(part):
                continue
            ready: dict[int, Tensor] = {}  # a tar may hold its samples in another order than the index
            due = iter([self.starts[shard] + n for n, wanted in enumerate(part) if wanted])
            following = next(due)
            for where, name, sample in self.samples(shard):
                if part[where - self.starts[shard]]:
                    ready[where] = self.decoder(name, sample)
                    if len(ready) * ready[where].nbytes > WAITING_BYTES:
                        raise KineticError(
                            f"shard {shown(self.index.shards[shard].url)} holds its samples in another order than its"
                            " manifest lists them: write both again"
                        )
                while following in ready:
                    yield ready.pop(following)
                    following = next(due, -1)

    def _useful_workers(self, plan: BatchOrder) -> int:
        shards = int((self.wanted(plan) > 0).sum())
        most = max(shards // plan.world, 1)
        if self.workers > most:
            rank_zero_warn(
                f"{shards} shards do not go round {plan.world} devices x {self.workers} workers:"
                f" using {most} a device; write more shards to use them all"
            )
        return min(self.workers, most)


@dataclass(frozen=True)
class Share:
    """What one stream of an epoch reads: whole `shards`, or of a single one every `parts`-th sample from `part` on."""

    shards: list[int]
    part: int = 0
    parts: int = 1


def share(wanted: Tensor, *, seed: int, epoch: int, stream: int, streams: int) -> Share:
    """Deal the shards of an epoch out to `streams`; `wanted` [S] counts the training images in each.

    The order is a function of (seed, epoch). No two streams get the same sample, unless a shard holds fewer than it
    has streams: then they all get everything.
    """
    shuffled = torch.randperm(len(wanted), generator=generator(seed, ORDER, epoch)).tolist()
    order = [s for s in shuffled if wanted[s] > 0]
    if len(order) >= streams:
        return Share(order[stream::streams])
    shard = stream % len(order)
    parts = len(range(shard, streams, len(order)))
    if int(wanted[order[shard]]) < parts:
        return Share(order)
    return Share([order[shard]], stream // len(order), parts)


class TrainStream(IterableDataset[tuple[Tensor, Tensor] | str]):
    """Batches `start` to `stop` of an epoch, from its beginning: those before `start` are read past and not decoded."""

    def __init__(self, pool: ShardPool, plan: BatchOrder, start: int, stop: int) -> None:
        self.pool, self.plan, self.start, self.stop = pool, plan, start, stop

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor] | str]:
        """Yield (raw images, pool indices), or at last the message of an error."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        plan = self.plan
        first = self.start - self.start % plan.per_epoch
        turn = (worker + self.start - first) % workers  # so that worker 0 gives the batch `start`
        stream = plan.rank * workers + turn
        try:
            items = self._items(self.start // plan.per_epoch, stream, plan.world * workers)
            for number in range(first + turn, self.stop, workers):
                batch = list(islice(items, plan.batch))
                if number >= self.start:
                    images = [self.pool.decoder(name, sample) for _, name, sample in batch]
                    yield torch.stack(images), torch.tensor([where for where, _, _ in batch])
        except ValueError as error:
            yield str(error)

    def _items(self, epoch: int, stream: int, streams: int) -> Iterator[Item]:
        seed = self.plan.seed
        mine = share(self.pool.wanted(self.plan), seed=seed, epoch=epoch, stream=stream, streams=streams)
        chosen = torch.zeros(len(self.pool), dtype=torch.bool)
        chosen[self.plan.subset] = True
        for cycle in count():
            rng = random.Random(seed_from(seed, epoch, stream, cycle))
            items = (item for s in mine.shards for item in self.pool.samples(s) if chosen[item[0]])
            yield from shuffled(islice(items, mine.part, None, mine.parts), self.pool.shuffle, rng)


def shuffled(items: Iterable[Item], size: int, rng: random.Random) -> Iterator[Item]:
    """Mix a stream by way of a buffer of `size` items, fewer if they are large: every item comes out once."""
    buffer: list[Item] = []
    held = 0
    for item in items:
        held += _bytes(item)
        if len(buffer) < size and held <= BUFFER_BYTES:
            buffer.append(item)
            continue
        while held > BUFFER_BYTES and len(buffer) > 1:
            held -= _bytes(buffer[-1])
            yield buffer.pop()
        if not buffer:
            buffer.append(item)
            continue
        place = int(rng.random() * len(buffer))
        held -= _bytes(buffer[place])
        yield buffer[place]
        buffer[place] = item
    rng.shuffle(buffer)
    yield from buffer


def _bytes(item: Item) -> int:
    return sum(map(len, item[2].values()))


class Shards(FlowDataModule):
    """Webdataset tars of jpg, png or webp pictures or npy latents, with classes in `.cls` or `.json`.

    An id is `shard/key`, the shard without its folder and extension, or that of the image that the manifest names.
    """

    def __init__(
        self,
        *,
        train: str | list[str],
        test: str | list[str] | None = None,
        num_classes: int | None = None,
        label_key: str = "label",
        scale: float = 1.0,
        vae: str | None = None,
        shuffle: int = 2000,
        skip_bad: bool = False,
        **common: Any,
    ) -> None:
        """Say which shards.

        Args:
            train: tars, gzipped or not: paths, folders, globs, brace patterns, URLs, or `pipe:` and a command.
            test: the same for held-out images; without it, the tars in a folder `train` whose names begin with test
                or val, and if there are none a part of the training images.
            num_classes: how many classes there are (by default the manifest's, or the largest label and one).
            label_key: where a `.json` has the class.
            scale: what npy latents are multiplied by; those that `kinetic encode` wrote are scaled already.
            vae: the autoencoder whose latents npy files are, by name or path, to show them as pictures (by default the
                manifest's).
            shuffle: samples that each stream mixes in memory, still encoded.
            skip_bad: read everything at the start, leave out cut-off ends and bad images, and say how many.
            common: see FlowDataModule.
        """
        super().__init__(**common)
        for option, value in [("train", train), ("test", test)]:
            if option == "train" or value is not None:
                for pattern in value if isinstance(value, list) and value else [value]:
                    text(option, pattern)
        whole("shuffle", shuffle, 1, 10**7)
        if num_classes is not None:
            whole("num_classes", num_classes, 1, MOST_CLASSES)
        text("label_key", label_key)
        factor("scale", scale)
        if vae is not None:
            text("vae", vae)
        switch("skip_bad", skip_bad)
        self.train, self.test, self.classes, self.label_key = train, test, num_classes, label_key
        self.scale, self.vae, self.shuffle, self.skip_bad = scale, vae, shuffle, skip_bad
        self.name = train if isinstance(train, str) else " ".join(train)
        self._places: dict[str, int] | None = None  # of the training images, by id

    def load(self) -> Source:
        """List the samples: at once where there is a manifest, else by reading all shards through."""
        shards = find_shards(self.train, self.trust)
        held = [] if self.test is None else find_shards(self.test, self.trust, option="test")
        if self.test is None and isinstance(self.train, str) and os.path.isdir(self.train):
            held = [s for s in shards if s.name.lower().startswith(("test", "val"))]
            held = [] if len(held) == len(shards) else held
            shards = [s for s in shards if s not in held]
        train = self._pool(shards, None)
        test = self._pool(held, train) if held else None
        latents = self._latents(train)
        if train.labels is None:
            return Source(train, test, latents=latents)
        classes = self.classes or train.index.num_classes or int(train.labels.max()) + 1
        for pool in (train, test):
            check_labels(pool, classes)
        names = train.index.class_names
        return Source(train, test, classes, names if names and len(names) == classes else None, latents)

    def _latents(self, pool: ShardPool) -> Latents | None:
        """What is known of the latents of a pool; None of pictures, and where nothing is."""
        known = pool.index.latents
        if pool.pictures:
            if self.vae is not None:
                raise KineticError(f"{self.name} holds pictures, not latents: leave out vae, or encode them first")
            return None
        if known is not None and self.scale != 1:
            raise KineticError(
                f"{self.name} holds latents that are scaled by {known.scale:g} already: leave out scale={self.scale:g}"
            )
        if self.vae is None:
            return known
        return Latents(vae=self.vae, scale=self.scale) if known is None else replace(known, vae=self.vae)

    def reference(
        self, *, chunk: int = 1024, flips: bool | None = None, rank: int = 0, world: int = 1
    ) -> Iterator[Chunk]:
        """Yield the training images as ever; latents of a mirror image have the index and the id of the image."""
        for x, rows, ids in super().reference(chunk=chunk, flips=flips, rank=rank, world=world):
            yield x, *self._images_of(rows, ids)

    def _images_of(self, rows: Tensor, ids: list[str]) -> tuple[Tensor, list[str]]:
        """Whose view each row is, where the image that a mirror image is of is trained on as well."""
        if self.latents is None or not any(name.endswith(MIRRORED) for name in ids):
            return rows, ids
        if self._places is None:
            self._places = {name: row for row, name in enumerate(self.subset_ids)}
        bare = [name.removesuffix(MIRRORED) for name in ids]
        images = [one if one in self._places else name for one, name in zip(bare, ids, strict=True)]
        return torch.tensor([self._places[image] for image in images]), images

    def _pool(self, shards: list[Shard], like: ShardPool | None) -> ShardPool:
        decoder = Decoder(channels=1 if self.grayscale else None, size=self.size, scale=self.scale)
        decoder = decoder if like is None else like.decoder
        index = index_shards(shards, label_key=self.label_key, decoder=decoder, skip_bad=self.skip_bad)
        decoder = replace(decoder, channels=decoder.channels or index.channels)
        pool = ShardPool(index, decoder, workers=self.num_workers, shuffle=self.shuffle, skip_bad=self.skip_bad)
        if not pool.pictures and (self.grayscale or self.size is not None):
            raise KineticError(f"{self.name} holds latents, not pictures: leave out size and grayscale")
        return pool


def check_labels(pool: ShardPool | None, classes: int) -> None:
    """Refuse labels outside 0 to `classes` - 1."""
    if pool is None or pool.labels is None:
        return
    outside = ((pool.labels < 0) | (pool.labels >= classes)).nonzero().flatten().tolist()
    if outside:
        raise KineticError(
            f"sample {pool.ids[outside[0]]} has label {int(pool.labels[outside[0]])}, outside 0 to {classes - 1}:"
            f" mend it or pass num_classes of {int(pool.labels.max()) + 1} or more"
        )
