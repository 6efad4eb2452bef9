"""Features of a run's real images: what they are fitted on, and a place in the run folder where they are kept."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.errors import KineticError
from kinetic.images import ImageSet
from kinetic.metrics.extractors import Training, extractor
from kinetic.metrics.features import Extractor, features
from kinetic.metrics.real import LEAST, RealFeatures, read_real, write_real
from kinetic.trust import STRANGER, Trust

FITTED, HELD_OUT = 5000, 5000  # images at most that features are fitted on, and that samples are compared with
COMPONENTS = 64
FOLDER = "reference"  # of a run
KEPT_BYTES = 2**30  # images that are held in memory between two passes
Split = Literal["held-out", "training"]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Real images as samples are compared with them, and the file that holds them, if one does."""

    real: RealFeatures
    file: Path | None = None
    found: bool = False  # whether they were read from the file


def default_features(data: FlowDataModule) -> str:
    """Principal components, as many as the training images allow; there at once, for images of any kind."""
    return f"pca:{max(1, min(COMPONENTS, torch.Size(data.shape).numel(), data.num_training - 1, FITTED - 1))}"


def extractor_of(
    data: FlowDataModule,
    name: str | None = None,
    *,
    device: torch.device | str = "cpu",
    trust: Trust = STRANGER,
) -> Extractor:
    """Make the features called `name`, fitted on training images where they are fitted; by default the components."""
    return extractor(name or default_features(data), training=training_of(data), device=device, trust=trust)


def training_of(data: FlowDataModule) -> Training:
    """At most 5,000 training images that features are fitted on, and as many held-out ones that tell how well."""
    images, labels = _all(data, held_out=False, limit=FITTED)
    known = None
    if labels is not None and data.num_held_out:
        held, of_held = _all(data, held_out=True, limit=HELD_OUT)
        known = None if of_held is None else (held, of_held)
    return Training(images=images, labels=labels, held_out=known)


def reference_of(
    data: FlowDataModule, made: Extractor, *, split: str = "held-out", limit: int = HELD_OUT, folder: Path | None = None
) -> Reference:
    """Features `made` of at most `limit` real images, as they are kept in `folder`, or found and, if it can be, kept.

    A file is taken where it was made of the same images by the same extractor.
    """
    images, said = split_of(data, split, limit)
    file = None if folder is None else folder / file_of(made, split, images)
    kept = None if file is None else _kept(file, made, said)
    if kept is not None:
        return Reference(real=kept, file=file, found=True)
    real = RealFeatures.of(features(images, made), split=said, extractor=made)
    if file is not None:
        try:
            write_real(file, real)
        except OSError:  # a run folder that is another's, or a full disk: they are made again next time
            file = None
    return Reference(real=real, file=file)


def features_of_split(
    data: FlowDataModule, made: Extractor, *, split: str, limit: int, folder: Path | None = None
) -> Tensor:
    """Features [N, F] of at most `limit` images of a split: those that are kept in `folder`, or found now."""
    images, said = split_of(data, split, limit)
    kept = None if folder is None else _kept(folder / file_of(made, split, images), made, said)
    return features(images, made) if kept is None else kept.features


def split_of(data: FlowDataModule, split: str, limit: int) -> tuple[ImageSet, str]:
    """At most `limit` images of a split, a seeded choice, never mirrored; and what they are, for a protocol."""
    if split not in get_args(Split):
        raise KineticError(f"unknown split {split!r:.40}; choose from {', '.join(get_args(Split))}")
    held_out = split == "held-out"
    count = min(limit, data.num_held_out if held_out else data.num_training)
    if count < LEAST:
        raise KineticError(f"a reference needs {LEAST} {split} images at least, and of {data.name} there are {count}")
    source = ImageSet.of(lambda: (x for x, _, _ in data.labelled(held_out=held_out, limit=count)), f"the {split} set")
    return source.kept("cpu", KEPT_BYTES), f"{count} {split} images"


def file_of(made: Extractor, split: str, images: ImageSet) -> str:
    """FEATURES-SPLIT-HASH.npz; the hash is of the extractor and of the values of the images."""
    digest = hashlib.sha256(made.hash.encode())
    for _, flat, _ in images.chunks(1024, dtype=torch.float32):
        digest.update(flat.contiguous().numpy().tobytes())
    short = re.sub(r"[^\w.-]+", "-", Path(made.name).name)[:40]
    return f"{short}-{split}-{digest.hexdigest()[:16]}.npz"


def _kept(file: Path, made: Extractor, said: str) -> RealFeatures | None:
    """What a file holds, if it is there, whole, and of the same protocol."""
    try:
        real = read_real(file)
    except (OSError, KineticError):
        return None
    same = (real.split, real.extractor_hash, real.resize) == (said, made.hash, made.resize)
    return real if same else None


def _all(data: FlowDataModule, *, held_out: bool, limit: int) -> tuple[Tensor, Tensor | None]:
    parts = list(data.labelled(held_out=held_out, limit=limit))
    labels: Sequence[Tensor] = [part for _, _, part in parts if part is not None]
    return torch.cat([x for x, _, _ in parts]), torch.cat(list(labels)) if labels else None
