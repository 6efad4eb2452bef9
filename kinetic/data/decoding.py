"""From the bytes of a webdataset sample to an image and a label, and the list of all samples in some shards."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kinetic.data.images import read_image
from kinetic.data.manifest import manifest_of
from kinetic.data.progress import progress
from kinetic.data.tars import IMAGES, DamagedShard, Shard, read_samples
from kinetic.errors import KineticError


@dataclass(frozen=True)
class Decoder:
    """How to make an image from a sample: a picture as uint8 [H, W, C], or latents (npy) as float32, times `scale`.

    `shape` is what every image must have once it is known; `channels` None means as many as the file has.
    """

    channels: int | None = None
    size: int | None = None
    scale: float = 1.0
    shape: tuple[int, ...] | None = None

    def __call__(self, name: str, sample: dict[str, bytes]) -> Tensor:
        """Decode the sample called `name`, or raise a ValueError that says so."""
        kind = next((k for k in (*IMAGES, "npy") if k in sample), None)
        if kind is None:
            have = ", ".join(sample) or "nothing to read"
            raise KineticError(f"sample {name} has no image: looked for {', '.join(IMAGES)}, npy and found {have}")
        if kind == "npy":
            image = self._array(name, sample[kind])
        else:
            image = read_image(io.BytesIO(sample[kind]), name=name, channels=self.channels, size=self.size)
        if self.shape is not None and tuple(image.shape) != self.shape:
            raise KineticError(self._mismatch(name, tuple(image.shape), self.shape))
        return image

    def _array(self, name: str, data: bytes) -> Tensor:
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
            if array.dtype.kind != "f":
                raise KineticError(f"its numbers are {array.dtype}, not floats")
            return torch.from_numpy(array.astype(np.float32)) * self.scale
        except (ValueError, OSError, EOFError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise KineticError(
                f"cannot read the latents of {name} ({reason}): remove it or pass skip_bad=true"
            ) from None

    @staticmethod
    def _mismatch(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
        fix = "keep one shape to a data set"
        if len(got) == len(expected) == 3 and got[:2] != expected[:2]:
            fix = "pass size=N"
        elif len(got) == len(expected) == 3:
            fix = "pass grayscale=true"
        return f"image {name} has shape {list(got)} but others have {list(expected)}: {fix}"


@dataclass(frozen=True)
class Index:
    """The samples of some shards: shard s holds `keys[s]`; `labels` int64 [N] and ids run over all shards in order."""

    shards: Sequence[Shard]
    keys: Sequence[Sequence[str]]
    labels: Tensor | None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    channels: int | None = None  # of the pictures, where a manifest says so

    @property
    def ids(self) -> list[str]:
        """`shard/key` of every sample."""
        return [f"{s.name}/{key}" for s, keys in zip(self.shards, self.keys, strict=True) for key in keys]


def index_shards(shards: Sequence[Shard], *, label_key: str, decoder: Decoder, skip_bad: bool) -> Index:
    """List the samples of `shards` from the manifest beside them, or by reading them through."""
    manifest = None if skip_bad else manifest_of(list(shards))
    if manifest is None:
        return scan(shards, label_key=label_key, decoder=decoder, skip_bad=skip_bad)
    entries = manifest.shards
    checked = [replace(s, sha256=e.sha256) for s, e in zip(shards, entries, strict=True)]
    every = [label for e in entries for label in e.labels or ()]
    labels = torch.tensor(every) if every and len(every) == manifest.count else None
    channels = manifest.shape[0] if len(manifest.shape) == 3 and manifest.shape[0] in (1, 3) else None
    keys = [e.keys for e in entries]
    return Index(checked, keys, labels, manifest.num_classes, manifest.class_names, channels)


def scan(shards: Sequence[Shard], *, label_key: str, decoder: Decoder, skip_bad: bool) -> Index:
    """Read shards through for keys and labels; `skip_bad` decodes images too, and leaves out and counts bad ones."""
    bad: list[str] = []
    with progress("listing shards", "samples") as bar:
        found = [scan_shard(s, label_key, decoder if skip_bad else None, bad, bar.update) for s in shards]
    if not any(found):
        raise KineticError(f"no shard holds a sample that can be used: {bad[0]}")
    if bad:
        total = sum(map(len, found)) + len(bad)
        rank_zero_warn(f"skipped {len(bad)} faults beside {total - len(bad)} good samples, the first: {bad[0]}")
    labels = [label for samples in found for label in samples.values()]
    known = [label for label in labels if label is not None]
    index = Index(shards, [list(samples) for samples in found], torch.tensor(known) if known else None)
    if known and len(known) < len(labels):
        name = index.ids[labels.index(None)]
        raise KineticError(f"sample {name} has no label but others have: give it a .cls or leave out all of them")
    return index


def scan_shard(
    shard: Shard, label_key: str, decoder: Decoder | None, bad: list[str], update: Callable[[], object]
) -> dict[str, int | None]:
    """Map the keys of a shard to their labels. With a decoder, images are decoded and faults are added to `bad`."""
    found: dict[str, int | None] = {}
    try:
        for key, sample in read_samples(shard):
            update()
            name = f"{shard.name}/{key}"
            if key in found:
                raise KineticError(
                    f"sample {name} occurs twice in {shard.url}: write the shard again with unique names"
                )
            try:
                found[key] = label_of(name, sample, label_key)
                if decoder is not None:
                    decoder(name, sample)
            except ValueError as error:
                if decoder is None:
                    raise
                found.pop(key, None)
                bad.append(str(error))
    except DamagedShard as error:
        if decoder is None:
            raise
        bad.append(str(error))
    if not found and decoder is None:
        raise KineticError(f"shard {shard.url} is empty: remove it or write it again")
    return found


def label_of(name: str, sample: dict[str, bytes], label_key: str) -> int | None:
    """Read the class of a sample from its `.cls`, or from `label_key` in its `.json`; None if it has neither."""
    text: object = None
    try:
        if "cls" in sample:
            text = sample["cls"].decode("ascii", "replace").strip()
            return int(str(text))
        content = json.loads(sample["json"]) if "json" in sample else {}
        text = content.get(label_key) if isinstance(content, dict) else None
        if text is None:
            return None
        if not isinstance(text, int):
            raise KineticError(text)
        return text
    except ValueError:
        raise KineticError(f"the label of sample {name} is {str(text)[:40]!r}: it must be a whole number") from None
