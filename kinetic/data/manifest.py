"""What a folder of shards holds, in the `manifest.json` beside them."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kinetic.data.latents import Latents
from kinetic.data.names import all_clean, fault_of_name, shown
from kinetic.data.options import MOST_CLASSES
from kinetic.data.sources import MOST_SHARDS, SUFFIXES, Shard
from kinetic.errors import KineticError
from kinetic.store.plain import read_json

FILE = "manifest.json"
FORMAT = 1
LEAST_BYTES, MOST_BYTES = 2**24, 2**30  # how large a manifest may be, however small or large its shards are


@dataclass(frozen=True)
class Entry:
    """One shard: its file, what it holds and its checksum."""

    file: str
    count: int
    size: int  # bytes of the file
    sha256: str
    keys: list[str]
    labels: list[int] | None
    ids: list[str] | None = None  # of the images that the samples were made of, where keys are not their ids

    def to_dict(self) -> dict[str, Any]:
        """Return plain types alone."""
        found = asdict(self)
        return found if self.ids is not None else {name: value for name, value in found.items() if name != "ids"}


@dataclass(frozen=True)
class Manifest:
    """All shards of a folder; `shape` is that of an image as the network sees it."""

    count: int
    shape: tuple[int, ...]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    shards: tuple[Entry, ...]
    latents: Latents | None = None  # of which autoencoder the samples are, and how; None where they are images

    def dumps(self) -> str:
        """Write as JSON."""
        content = {name: getattr(self, name) for name in ("count", "shape", "num_classes", "class_names")}
        content |= {"shards": [entry.to_dict() for entry in self.shards]}
        content |= {} if self.latents is None else {"latents": self.latents.to_dict()}
        return json.dumps({"format": FORMAT, **content}, indent=1) + "\n"


def load_manifest(path: Path) -> Manifest:
    """Read a manifest; what it may hold is checked field by field, and a fault is a KineticError of one line.

    It may have as many bytes as the tars beside it, but at least LEAST_BYTES and at most MOST_BYTES.
    """
    try:
        beside = sum(e.stat().st_size for e in os.scandir(path.parent) if e.name.endswith(SUFFIXES) and e.is_file())
        content = read_json(path, most=min(max(beside, LEAST_BYTES), MOST_BYTES))
        return _manifest(content)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{path} cannot be read: ")
        raise KineticError(
            f"{shown(str(path))} cannot be used ({reason}): write the shards again, or remove it"
        ) from None


def manifest_of(shards: list[Shard]) -> Manifest | None:
    """Find the manifest beside local shards; its entries are those of `shards`, in their order. None if there is none.

    A shard of another size than the manifest says is refused here; checksums are compared when a shard is read.
    """
    folders = {None if s.remote else Path(s.url).parent for s in shards}
    folder = folders.pop() if len(folders) == 1 else None
    if folder is None or not os.path.isfile(folder / FILE):
        return None
    manifest = load_manifest(folder / FILE)
    known = {entry.file: entry for entry in manifest.shards}
    entries = [known.get(Path(s.url).name) for s in shards]
    found = tuple(entry for entry in entries if entry is not None)
    if len(found) < len(entries):
        return None
    for shard, entry in zip(shards, found, strict=True):
        size = os.path.getsize(shard.url)
        if size != entry.size:
            raise KineticError(
                f"shard {shown(shard.url)} has {size} bytes but {FILE} says {entry.size}: copy or write it again"
            )
    total = sum(entry.count for entry in found)
    return replace(manifest, count=total, shards=found)


def _manifest(content: Any) -> Manifest:
    top = _fields(content, "it", ("format", "count", "shape", "num_classes", "class_names", "shards"), ("latents",))
    if isinstance(top["format"], bool) or top["format"] != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    shape = _list(top["shape"], "shape", lambda n: _is_whole(n, 1, 2**31), "whole numbers of 1 or more", 8)
    if not shape:
        raise ValueError("its shape is empty")
    classes = top["num_classes"]
    if classes is not None and not _is_whole(classes, 1, MOST_CLASSES):
        raise ValueError(f"its num_classes is {_short(classes)}, not null or 1 to {MOST_CLASSES:,}")
    names = top["class_names"]
    if names is not None:
        names = tuple(_list(names, "class_names", lambda n: isinstance(n, str), "texts", MOST_CLASSES))
        if names and (len(names) != classes or not all_clean(names)):
            raise ValueError("its class_names are not one line of text for each of its num_classes")
    entries = _list(top["shards"], "shards", lambda e: isinstance(e, dict), "entries", MOST_SHARDS)
    shards = tuple(entry_of(entry, classes) for entry in entries)
    if len({s.file for s in shards}) < len(shards):
        raise ValueError("it lists a shard twice")
    if not _is_whole(top["count"], 0, 2**53) or top["count"] != sum(s.count for s in shards):
        raise ValueError(f"its count is {_short(top['count'])}, not the sum of those of its shards")
    if len({shard.ids is None for shard in shards}) > 1:
        raise ValueError("some of its shards have ids and others have none")
    latents = Latents.of(top["latents"], "it") if "latents" in top else None
    return Manifest(top["count"], tuple(shape), classes, names or None, shards, latents)


def entry_of(content: Any, classes: int | None) -> Entry:
    """Take one shard's entry, labels up to `classes`; ValueError where it is none."""
    entry = _fields(content, "an entry", ("file", "count", "size", "sha256", "keys", "labels"), ("ids",))
    file = entry["file"]
    if not isinstance(file, str) or fault_of_name(file) or set("/\\") & set(file) or file in (".", ".."):
        raise ValueError(f"the file {_short(file)} is not the name of a shard beside it")
    for name in ("count", "size"):
        if not _is_whole(entry[name], 0, 2**53):
            raise ValueError(f"the {name} of {file} is {_short(entry[name])}, not a whole number of 0 or more")
    if not isinstance(entry["sha256"], str) or re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is None:
        raise ValueError(f"the sha256 of {file} is no checksum")
    keys = _list(entry["keys"], f"keys of {file}", lambda k: isinstance(k, str), "texts")
    if not all_clean(keys):
        fault, key = next((fault_of_name(k), k) for k in keys if fault_of_name(k))
        raise ValueError(f"the key {key[:100]!r} of {file} cannot be used, {fault}")
    if len(set(keys)) < len(keys):
        raise ValueError(f"the keys of {file} are not unique")
    labels = entry["labels"]
    if labels is not None:
        most = classes or MOST_CLASSES
        labels = _list(
            labels, f"labels of {file}", lambda n: _is_whole(n, 0, most - 1), f"whole numbers of 0 to {most - 1:,}"
        )
    if not keys:
        raise ValueError(f"it lists no sample of {file}")
    if entry["count"] != len(keys) or (labels is not None and len(labels) != len(keys)):
        raise ValueError(f"the counts of {file} do not agree")
    return Entry(file, entry["count"], entry["size"], entry["sha256"], keys, labels, _ids(entry, file))


def _ids(entry: dict[str, Any], file: str) -> list[str] | None:
    if "ids" not in entry:
        return None
    ids = _list(entry["ids"], f"ids of {file}", lambda k: isinstance(k, str), "texts")
    if len(ids) != entry["count"] or len(set(ids)) < len(ids) or not all_clean(ids):
        raise ValueError(f"the ids of {file} are not one line of text for each of its samples")
    return ids


def _fields(content: Any, what: str, names: tuple[str, ...], more: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(content, dict) or set(content) - set(more) != set(names):
        have = ", ".join(sorted(map(str, content)))[:100] if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{what} must have the fields {', '.join(names)}, and has {have or 'none'}")
    return content


def _list(value: Any, what: str, fits: Callable[[Any], bool], kind: str, most: int = 2**53) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"its {what} is {_short(value)}, not a list of {kind}")
    for item in value:
        if not fits(item):
            raise ValueError(f"its {what} has {_short(item)} among {kind}")
    return value


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 100:
        return "a huge number"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value):,}"
    return repr(value)[:60]
