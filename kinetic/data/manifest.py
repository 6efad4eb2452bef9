"""What a folder of shards holds, in the `manifest.json` beside them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinetic.data.tars import Shard, is_remote
from kinetic.errors import KineticError

FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One shard: its file, what it holds and its checksum."""

    file: str
    count: int
    size: int  # bytes of the file
    sha256: str
    keys: list[str]
    labels: list[int] | None


@dataclass(frozen=True)
class Manifest:
    """All shards of a folder; `shape` is that of an image as the network sees it."""

    count: int
    shape: tuple[int, ...]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    shards: tuple[Entry, ...]

    def dumps(self) -> str:
        """Write as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def load_manifest(path: Path) -> Manifest:
    """Read a manifest, or say in one line what is wrong with it."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise KineticError(f"its format is not {FORMAT}")
        entries = tuple(Entry(**entry) for entry in content.pop("shards"))
        names, shape = content.pop("class_names"), tuple(content.pop("shape"))
        manifest = Manifest(shards=entries, class_names=tuple(names) if names else None, shape=shape, **content)
        strange = next((e.file for e in entries if e.count != len(e.keys) or len(e.labels or e.keys) != e.count), None)
        if strange is not None:
            raise KineticError(f"the counts of {strange} do not agree")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise KineticError(f"{path} cannot be used ({reason}): write the shards again, or remove it") from None
    return manifest


def manifest_of(shards: list[Shard]) -> Manifest | None:
    """Find the manifest beside local shards; its entries are those of `shards`, in their order. None if there is none.

    A shard of another size than the manifest says is refused here; checksums are compared when a shard is read.
    """
    folders = {None if is_remote(s.url) else Path(s.url).parent for s in shards}
    folder = folders.pop() if len(folders) == 1 else None
    if folder is None or not (folder / FILE).is_file():
        return None
    manifest = load_manifest(folder / FILE)
    known = {entry.file: entry for entry in manifest.shards}
    entries = [known.get(Path(s.url).name) for s in shards]
    found = tuple(entry for entry in entries if entry is not None)
    if len(found) < len(entries):
        return None
    for shard, entry in zip(shards, found, strict=True):
        size = Path(shard.url).stat().st_size
        if size != entry.size:
            raise KineticError(
                f"shard {shard.url} has {size} bytes but {FILE} says {entry.size}: copy or write it again"
            )
    total = sum(entry.count for entry in found)
    return Manifest(total, manifest.shape, manifest.num_classes, manifest.class_names, found)
