"""From the bytes of a webdataset sample to an image and a label, and the list of all samples in some shards."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kinetic.data.arrays import read_array
from kinetic.data.grouping import IMAGES, LeftOut
from kinetic.data.images import read_image
from kinetic.data.latents import Latents
from kinetic.data.manifest import FILE, manifest_of
from kinetic.data.names import fault_of_name, shown
from kinetic.data.options import MOST_CLASSES
from kinetic.data.progress import progress
from kinetic.data.sources import Shard
from kinetic.data.tars import DamagedShard, read_samples
from kinetic.errors import KineticError
from kinetic.store.plain import parse_json


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
        """Decode the sample called `name`, or raise a KineticError that says what is wrong."""
        kind = next((k for k in (*IMAGES, "npy") if k in sample), None)
        if kind is None:
            have = ", ".join(sample) or "nothing to read"
            raise KineticError(
                f"sample {shown(name)} has no image: looked for {', '.join(IMAGES)}, npy and found {have}"
            )
        if kind == "npy":
            image = self._array(name, sample[kind])
        else:
            image = read_image(io.BytesIO(sample[kind]), name=name, channels=self.channels, size=self.size)
        if self.shape is not None and tuple(image.shape) != self.shape:
            raise KineticError(self._mismatch(name, tuple(image.shape), self.shape))
        return image

    def _array(self, name: str, data: bytes) -> Tensor:
        try:
            array = read_array(data) * self.scale
            if not bool(torch.isfinite(array).all()):
                raise ValueError(f"some of its numbers are infinite times scale={self.scale}")
            return array
        except ValueError as error:
            raise KineticError(
                f"cannot read the latents of {shown(name)} ({error}): remove it or pass skip_bad=true"
            ) from None

    @staticmethod
    def _mismatch(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
        fix = "keep one shape to a data set"
        if len(got) == len(expected) == 3 and got[:2] != expected[:2]:
            fix = "pass size=N"
        elif len(got) == len(expected) == 3:
            fix = "pass grayscale=true"
        return f"image {shown(name)} has shape {list(got)} but others have {list(expected)}: {fix}"


@dataclass(frozen=True)
class Index:
    """The samples of some shards: shard s holds `keys[s]`; `labels` int64 [N] and ids run over all shards in order."""

    shards: Sequence[Shard]
    keys: Sequence[Sequence[str]]
    labels: Tensor | None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    channels: int | None = None  # of the pictures, where a manifest says so
    latents: Latents | None = None  # of which autoencoder, where a manifest says so
    images: Sequence[str] | None = None  # ids of the images that the samples were made of, where a manifest has them

    @property
    def ids(self) -> list[str]:
        """The images' ids where they are known, else `shard/key` of every sample."""
        if self.images is not None:
            return list(self.images)
        return [f"{s.name}/{key}" for s, keys in zip(self.shards, self.keys, strict=True) for key in keys]


def index_shards(shards: Sequence[Shard], *, label_key: str, decoder: Decoder, skip_bad: bool) -> Index:
    """List the samples of `shards` from the manifest beside them, or by reading them through."""
    manifest = None if skip_bad else manifest_of(list(shards))
    if manifest is None:
        return scan(shards, label_key=label_key, decoder=decoder, skip_bad=skip_bad)
    entries = manifest.shards
    checked = [replace(s, sha256=e.sha256) for s, e in zip(shards, entries, strict=True)]
    labelled = [e for e in entries if e.labels is not None]
    if labelled and len(labelled) < len(entries):
        bare = next(e.file for e in entries if e.labels is None)
        raise KineticError(
            f"{bare} has no labels in {FILE} but {labelled[0].file} has: use shards of one kind, or remove the manifest"
        )
    labels = torch.tensor([label for e in entries for label in e.labels or ()]) if labelled else None
    channels = manifest.shape[0] if len(manifest.shape) == 3 and manifest.shape[0] in (1, 3) else None
    keys = [e.keys for e in entries]
    images = [name for e in entries for name in e.ids or ()] or None
    if images is not None and len(set(images)) < len(images):
        raise KineticError(
            f"two samples in {FILE} have the same id: give their images other names, and encode them again"
        )
    return Index(checked, keys, labels, manifest.num_classes, manifest.class_names, channels, manifest.latents, images)


def scan(shards: Sequence[Shard], *, label_key: str, decoder: Decoder, skip_bad: bool) -> Index:
    """Read shards through for keys and labels; `skip_bad` decodes images too, and leaves out and counts bad ones.

    Images that belong to no sample of their own are told, with their number.
    """
    bad: list[str] = []
    left_out = LeftOut()
    with progress("listing shards", "samples") as bar:
        found = [scan_shard(s, label_key, decoder if skip_bad else None, bad, bar.update, left_out) for s in shards]
    for line in left_out.lines():
        rank_zero_warn(line)
    if not any(found):
        reason = [*bad, *left_out.lines(), "they are empty"][0]
        raise KineticError(f"no shard holds a sample that can be used: {reason}")
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
    shard: Shard,
    label_key: str,
    decoder: Decoder | None,
    bad: list[str],
    update: Callable[[], object],
    left_out: LeftOut,
) -> dict[str, int | None]:
    """Map the keys of a shard to their labels. With a decoder, images are decoded and faults are added to `bad`."""
    found: dict[str, int | None] = {}
    kinds: dict[str, frozenset[str]] = {}
    known: dict[frozenset[str], frozenset[str]] = {}  # one object for each set of kinds, however many samples
    before = sum(left_out.counts.values())
    try:
        for key, sample in read_samples(shard, left_out):
            update()
            name = f"{shard.name}/{key}"
            if key in kinds:
                raise KineticError(repeated(shard, key, bool(kinds[key] & set(sample))))
            have = frozenset(sample)
            kinds[key] = known.setdefault(have, have)
            try:
                if fault := fault_of_name(key):
                    raise KineticError(
                        f"a sample of shard {shown(shard.url)} cannot be used, {fault}: rename {key[:100]!r}"
                    )
                if decoder is not None:
                    decoder(name, sample)
                found[key] = label_of(name, sample, label_key)
            except KineticError as error:
                if decoder is None:
                    raise
                bad.append(str(error))
    except DamagedShard as error:
        if decoder is None:
            raise
        bad.append(str(error))
    if not found and decoder is None:
        if sum(left_out.counts.values()) > before:
            raise KineticError(f"shard {shown(shard.url)} has no sample that is read: {left_out.lines()[-1]}")
        raise KineticError(f"shard {shown(shard.url)} is empty: remove it or write it again")
    return found


def repeated(shard: Shard, key: str, whole: bool) -> str:
    """Say that a key occurs again: with a kind that it had (`whole`), or with the rest of its members."""
    if whole:
        name = shown(f"{shard.name}/{key}")
        return f"sample {name} occurs twice in {shown(shard.url)}: write the shard again with unique names"
    return (
        f"the members of sample {shown(key)} do not follow one another in {shown(shard.url)}:"
        " write it again sorted by name, as tar --sort=name does"
    )


def label_of(name: str, sample: dict[str, bytes], label_key: str) -> int | None:
    """Read the class of a sample from its `.cls`, or from `label_key` in its `.json`; None if it has neither.

    KineticError where it is no whole number, or one that no data set has as many classes for.
    """
    if "cls" in sample:
        text = sample["cls"].decode("ascii", "replace").strip()
        return _label(name, int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text)
    if "json" not in sample:
        return None
    try:
        content = parse_json(sample["json"], name="its .json")
    except KineticError as error:
        raise KineticError(f"there is no label of sample {shown(name)}, {error}: mend it or remove it") from None
    label = content.get(label_key) if isinstance(content, dict) else None
    return None if label is None else _label(name, label)


def _label(name: str, label: object) -> int:
    if isinstance(label, bool) or not isinstance(label, int):
        raise KineticError(f"the label of sample {shown(name)} is {str(label)[:40]!r}: it must be a whole number")
    if abs(label) >= MOST_CLASSES:
        value = f"{label:,}" if abs(label) < 10**20 else "enormous"
        raise KineticError(
            f"the label of sample {shown(name)} is {value}: there are at most {MOST_CLASSES:,} classes, counted from 0"
        )
    return label
