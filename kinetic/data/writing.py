"""Write any data set as shards: tars with equal bytes for equal images, and a manifest."""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kinetic.build import build
from kinetic.data.base import FlowDataModule
from kinetic.data.manifest import FILE, Entry, Manifest
from kinetic.data.names import shown
from kinetic.data.naming import listing, named_data
from kinetic.data.options import text, whole
from kinetic.data.pools import Pool
from kinetic.data.progress import progress
from kinetic.data.sources import SUFFIXES
from kinetic.errors import KineticError
from kinetic.tensors import chunks
from kinetic.trust import OWN

Format = Literal["png", "jpg", "webp"]
PARTIAL = re.compile(rf"\.(?:(?:train|test)-\d{{5,}}\.tar|{re.escape(FILE)})\.partial")  # what is not yet whole
OPTIONS: dict[str, dict[str, object]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95},
    "webp": {"format": "WEBP", "lossless": True},
}


def source(spec: str, *, root: str = "data", size: int | None = None, grayscale: bool = False) -> FlowDataModule:
    """Open a data set by its name (digits, cifar10, ...), a folder of images, or a shard pattern.

    `root` is where torchvision's data sets lie; `size` and `grayscale` are those of FlowDataModule.
    """
    config = named_data(spec, root=root, size=size, grayscale=grayscale)
    return cast(FlowDataModule, build(config, base=FlowDataModule, home="kinetic.data", trust=OWN))


def write_shards(data: FlowDataModule, out: str | Path, *, per_shard: int = 5000, format: Format = "png") -> Manifest:
    """Write the training images of `data`, and its test split where it has one, to OUT/{train,test}-NNNNN.tar.

    Pictures become `format` (png and webp keep every pixel), points and latents npy; keys are running numbers. The
    same images give the same bytes. Nothing appears under its name before all is written, `manifest.json` last.
    """
    whole("per_shard", per_shard, 1, 10**9)
    if format not in OPTIONS:
        raise KineticError(f"format={format!r} is unknown: choose one of {', '.join(OPTIONS)}")
    text("OUT", str(out))
    folder = Path(out)
    check_free(folder)
    splits = data.splits()
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in [p for p in folder.iterdir() if PARTIAL.fullmatch(p.name)]:  # of a run that was killed
            left.unlink()
    partial: list[Path] = []
    try:
        with writing_to(folder), progress("writing shards", "images", total=sum(len(i) for _, _, i in splits)) as bar:
            entries = [
                e for split in splits for e in write_split(folder, *split, per_shard, format, partial, bar.update)
            ]
        content = Manifest(
            sum(e.count for e in entries), data.shape, data.num_classes, data.class_names, tuple(entries)
        )
        partial.append(folder / f".{FILE}.partial")
        with writing_to(folder):
            partial[-1].write_text(content.dumps(), encoding="utf-8")
            for path in partial:
                path.replace(folder / path.name.removeprefix(".").removesuffix(".partial"))
    finally:
        for path in partial:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return content


def write_split(
    folder: Path,
    split: str,
    pool: Pool,
    indices: Tensor,
    per_shard: int,
    format: Format,
    partial: list[Path],
    update: Callable[[], object],
) -> Iterator[Entry]:
    """Write the images at `indices` [n] of a pool, ascending, to partial files, which are added to `partial`."""
    images = (image for chunk in pool.chunks(indices, 256) for image in chunk)
    labels = None if pool.labels is None else pool.labels[indices].tolist()
    for number, part in enumerate(chunks(len(indices), per_shard)):
        name = f"{split}-{number:05d}.tar"
        partial.append(folder / f".{name}.partial")
        keys = [f"{i:08d}" for i in range(part.start, part.stop)]
        entry = write_shard(partial[-1], name, images, keys, None if labels is None else labels[part], format, update)
        if entry.count < len(keys):
            raise KineticError(f"{split} ended after {part.start + entry.count} of {len(indices)} images: start again")
        yield entry


def write_shard(
    path: Path,
    name: str,
    images: Iterator[Tensor],
    keys: list[str],
    labels: list[int] | None,
    format: Format,
    update: Callable[[], object],
    ids: list[str] | None = None,
) -> Entry:
    """Write the next images as the shard `name` to `path`, one a key; its entry counts those that there were."""
    done = 0
    with path.open("wb") as file:
        written = HashingWriter(file)
        with tarfile.open(fileobj=cast(Any, written), mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for key in keys:
                image = next(images, None)
                if image is None:
                    break
                add(tar, *encode(key, image, format))
                if labels is not None:
                    add(tar, f"{key}.cls", str(labels[done]).encode())
                update()
                done += 1
    return Entry(name, done, written.size, written.digest.hexdigest(), keys, labels, ids)


def encode(key: str, image: Tensor, format: Format) -> tuple[str, bytes]:
    """Turn a raw image to a file name and its content."""
    buffer = io.BytesIO()
    if image.dtype != torch.uint8:
        np.save(buffer, image.numpy(), allow_pickle=False)
        return f"{key}.npy", buffer.getvalue()
    try:
        Image.fromarray(image.squeeze(-1).numpy()).save(buffer, **cast(Any, OPTIONS[format]))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KineticError(f"image {key} cannot be written as {format} ({reason}): pass --format png") from None
    return f"{key}.{format}", buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with no date and no owner."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def check_free(folder: Path) -> None:
    """Refuse a folder to write to that is a file or already holds shards."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise KineticError(f"{shown(str(folder))} is a file: pass a folder to write to")
    if not os.path.isdir(folder):
        return
    with listing(str(folder)):
        taken = sorted(p.name for p in folder.iterdir() if p.name.endswith(SUFFIXES) or p.name == FILE)
    if taken:
        raise KineticError(
            f"{shown(str(folder))} already holds shards ({shown(taken[0])}): pass another folder, or remove them first"
        )


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a fault of the disk into a KineticError."""
    try:
        yield
    except OSError as error:
        raise KineticError(
            f"cannot write to {shown(str(folder))} ({error.strerror or error}): make room there, or pass another folder"
        ) from None


class HashingWriter:
    """A binary file that is written to, with the checksum and the number of the bytes so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)
