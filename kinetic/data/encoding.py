"""Write the latents of a data set as shards: a shard at a time, by several processes, and again where it was stopped.

A shard that is whole lies beside its entry under a hidden name, so that nothing reads half a data set; once all are
there, they get their names, and the manifest is written.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kinetic.data.base import FlowDataModule
from kinetic.data.latents import MIRRORED, Latents
from kinetic.data.manifest import FILE, Entry, Manifest, entry_of
from kinetic.data.names import shown
from kinetic.data.pools import Pool, stacked, to_float
from kinetic.data.writing import check_free, write_shard, writing_to
from kinetic.errors import KineticError
from kinetic.store.files import write_text
from kinetic.store.plain import read_json
from kinetic.tensors import chunks

RECORD = ".encoding.json"  # what the shards in a folder are, to go on with the same ones alone
ENTRY_BYTES = 2**28
Encode = Callable[[Tensor, Sequence[str]], Tensor]  # images [B, C, H, W] in [-1, 1] and their ids -> latents [B, ...]


class EncodedPool:
    """The latents of some images of a pool, at `indices` [n] ascending; each is followed by its mirror image's."""

    def __init__(self, pool: Pool, indices: Tensor, encode: Encode, *, mirrored: bool = False, batch: int = 32) -> None:
        if mirrored and not pool.pictures:
            raise KineticError("there are no pictures to mirror: leave out --flip")
        self.pool, self.indices, self.encode, self.batch = pool, indices, encode, batch
        self.views = 2 if mirrored else 1

    def __len__(self) -> int:
        return len(self.indices) * self.views

    def ids(self, part: slice) -> list[str]:
        """Ids of some rows."""
        return [self._id(row) for row in range(part.start, part.stop)]

    def labels(self, part: slice) -> list[int] | None:
        """Labels of some rows."""
        known, rows = self.pool.labels, range(part.start, part.stop)
        return None if known is None else [int(known[self.indices[row // self.views]]) for row in rows]

    def latents(self, part: slice) -> Iterator[Tensor]:
        """Yield the latents float32 [...] of some rows, a batch being encoded at a time."""
        names = iter(self.ids(part))
        for images in stacked(self._images(part), self.batch):
            yield from self.encode(images, [next(names) for _ in images])

    def _id(self, row: int) -> str:
        return self.pool.ids[int(self.indices[row // self.views])] + (MIRRORED if row % self.views else "")

    def _images(self, part: slice) -> Iterator[Tensor]:
        first, last = part.start // self.views, -(-part.stop // self.views)
        row = first * self.views
        for raw in self.pool.chunks(self.indices[first:last], self.batch):
            for image in to_float(raw):
                for view in (image, image.flip(-1))[: self.views]:
                    if part.start <= row < part.stop:
                        yield view
                    row += 1


@dataclass(frozen=True)
class Encoding:
    """Which latents are written where.

    Attributes:
        folder: for the shards.
        data: what is encoded.
        pools: of each split, the latents.
        latents: what they are.
        per_shard: samples in one shard.
        record: plain types that decide what the shards are.
    """

    folder: Path
    data: FlowDataModule
    pools: dict[str, EncodedPool]
    latents: Latents
    per_shard: int
    record: dict[str, Any]

    def begin(self) -> bool:
        """Take the folder, or go on in it; whether all is there already. KineticError where others lie in it."""
        path = self.folder / RECORD
        if path.is_file():
            self._check_same(read_json(path))
            return (self.folder / FILE).is_file()
        check_free(self.folder)
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(self.record, indent=1) + "\n")
        return False

    def shards(self) -> list[tuple[str, int]]:
        """All shards by split and number."""
        return [
            (split, number) for split, pool in self.pools.items() for number in range(-(-len(pool) // self.per_shard))
        ]

    def missing(self) -> list[tuple[str, int]]:
        """The shards that are not written yet."""
        if (self.folder / FILE).is_file():
            return []
        return [shard for shard in self.shards() if self._entry(*shard) is None]

    def size(self, split: str, number: int) -> int:
        """How many samples a shard holds."""
        part = self._part(split, number)
        return part.stop - part.start

    def write(self, split: str, number: int, update: Callable[[], object]) -> None:
        """Encode one shard, and write it whole."""
        pool, part = self.pools[split], self._part(split, number)
        name, keys = _name(split, number), [f"{row:08d}" for row in range(part.start, part.stop)]
        partial = self.folder / f".{name}.{os.getpid()}.partial"  # a process that was left behind has its own
        with writing_to(self.folder):
            entry = write_shard(
                partial, name, pool.latents(part), keys, pool.labels(part), "png", update, pool.ids(part)
            )
            if entry.count < len(keys):
                raise KineticError(f"{split} ended after {part.start + entry.count:,} of {len(pool):,} images")
            partial.replace(self._whole(name))
            write_text(self._beside(name), json.dumps(entry.to_dict()) + "\n")

    def finish(self) -> Manifest:
        """Give the shards their names, and write the manifest."""
        found = [self._entry(*shard) for shard in self.shards()]
        entries = tuple(entry for entry in found if entry is not None)
        shape = tuple(next(self.pools["train"].latents(slice(0, 1))).shape)
        count, data = sum(entry.count for entry in entries), self.data
        content = Manifest(count, shape, data.num_classes, data.class_names, entries, self.latents)
        with writing_to(self.folder):
            for entry in entries:
                if self._whole(entry.file).is_file():
                    self._whole(entry.file).replace(self.folder / entry.file)
            write_text(self.folder / FILE, content.dumps())
            for left in (*(self._beside(entry.file) for entry in entries), *self.folder.glob(".*.partial")):
                left.unlink(missing_ok=True)
        return content

    def _check_same(self, found: Any) -> None:
        old = found if isinstance(found, dict) else {}
        other = next((name for name in (*self.record, *old) if old.get(name) != self.record.get(name)), None)
        if other is not None:
            was, now = (f"{one.get(other)!s:.20}" for one in (old, self.record))
            raise KineticError(
                f"{shown(str(self.folder))} holds latents of another {other} ({was}, now {now}): pass another folder"
            )

    def _part(self, split: str, number: int) -> slice:
        return list(chunks(len(self.pools[split]), self.per_shard))[number]

    def _entry(self, split: str, number: int) -> Entry | None:
        """The entry of a shard that is whole; None where it is not there."""
        name = _name(split, number)
        if not self._beside(name).is_file():
            return None
        try:
            entry = entry_of(read_json(self._beside(name), most=ENTRY_BYTES), self.data.num_classes)
        except ValueError:
            return None
        tar = next((path for path in (self._whole(name), self.folder / name) if path.is_file()), None)
        return entry if tar is not None and tar.stat().st_size == entry.size and entry.file == name else None

    def _whole(self, name: str) -> Path:
        return self.folder / f".{name}.whole"

    def _beside(self, name: str) -> Path:
        return self.folder / f".{name}.json"


def encoding(
    data: FlowDataModule,
    folder: Path,
    encode: Encode,
    latents: Latents,
    *,
    mirrored: bool = False,
    batch: int = 32,
    per_shard: int = 5000,
) -> Encoding:
    """Plan to encode the training images of `data`, mirrored too if asked for, and its held-out ones, never mirrored.

    Mirror images of training images must not be held out: with them, a set without a test split is cut in two here.
    """
    pools = {
        split: EncodedPool(pool, indices, encode, mirrored=mirrored and split == "train", batch=batch)
        for split, pool, indices in data.splits(apart=mirrored)
    }
    record = {
        "source": data.name,
        "images": {split: len(pool.indices) for split, pool in pools.items()},
        "shape": list(data.shape),
        "mirrored": mirrored,
        "batch": batch,
        "per_shard": per_shard,
        **{("autoencoder" if name == "sha256" else name): value for name, value in latents.to_dict().items()},
    }
    record.pop("vae")  # wherever it lies, its weights are the same
    return Encoding(folder, data, pools, latents, per_shard, record)


def _name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.tar"
