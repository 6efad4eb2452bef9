"""Read webdataset tars one sample after another: nothing in them is executed, and damage is noticed and named."""

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from webdataset.gopen import gopen
from webdataset.shardlists import expand_urls

from kinetic.errors import KineticError

IMAGES = ("jpg", "jpeg", "png", "webp")
EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
SUFFIXES = (".tar", ".tar.gz", ".tgz")
KINDS = (*IMAGES, "npy", "cls", "json")  # what is read; members of any other kind are left alone
Sample = tuple[str, dict[str, bytes]]  # key, and the bytes of each kind


@dataclass(frozen=True)
class Shard:
    """One tar: where it is, the name in its images' ids, and what the manifest beside it says it is."""

    url: str
    name: str
    sha256: str | None = None


class DamagedShard(KineticError):
    """A shard that ends too early or cannot be read; `key` is the last whole sample before that."""


def find_shards(patterns: str | list[str]) -> list[Shard]:
    """Expand folders, globs, brace patterns and `::` lists to shards; URLs and `pipe:` commands stay as they are."""
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for url in [pattern] if pattern.startswith("pipe:") and "{" not in pattern else expand_urls(pattern):
            found += [url] if is_remote(url) else local_files(url)
    names = [shard_name(url) for url in found]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise KineticError(
            f"two shards are called {twice[0]}, so that image ids would not be unique: rename one of them"
        )
    return [Shard(url, name) for url, name in zip(found, names, strict=True)]


def is_remote(url: str) -> bool:
    """Whether a shard comes from a URL or a command and not from a file."""
    return url.startswith("pipe:") or "://" in url


def local_files(pattern: str) -> list[str]:
    """The files that a path, a folder or a glob stands for, sorted."""
    path = Path(pattern)
    if path.is_file():
        return [pattern]
    if path.is_dir():
        files = [p for p in path.iterdir() if p.name.endswith(SUFFIXES)]
    else:
        parts = path.parts
        first = next((n for n, part in enumerate(parts) if set("*?[") & set(part)), len(parts))
        if first == len(parts):
            raise KineticError(f"shard {pattern} does not exist: pass the path of a tar, a folder of tars or a pattern")
        files = [p for p in Path(*parts[:first]).glob("/".join(parts[first:])) if p.is_file()]
    if not files:
        raise KineticError(f"no shards in {pattern}: looked for tars (.tar, .tar.gz, .tgz)")
    return sorted(map(str, files))


def shard_name(url: str) -> str:
    """The base name of a shard without its extension: `a/train-00000.tar.gz` -> `train-00000`."""
    tars = re.findall(r"([^/\\\s'\"=]+?)\.(?:tar\.gz|tar|tgz)\b", url)
    return tars[-1] if tars else Path(url.split("?")[0]).name.split(".")[0]


def read_samples(shard: Shard) -> Iterator[Sample]:
    """Yield (key, bytes by kind) for every sample of a tar, in its order, kinds in small letters.

    A tar that cannot be opened, is truncated or differs from its checksum is a DamagedShard error, raised behind its
    last whole sample.
    """
    last, source = None, None
    try:
        source = gopen(shard.url) if is_remote(shard.url) else open(shard.url, "rb")  # noqa: SIM115 (closed below)
        stream = Stream(source)
        for sample in group(members(stream)):
            yield sample
            last = sample[0]
        source.close()  # a command that failed says so here
        if shard.sha256 is not None and stream.digest.hexdigest() != shard.sha256:
            raise EOFError("its SHA-256 is not that of manifest.json")
    except (OSError, EOFError, zlib.error, tarfile.TarError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        after = "" if last is None else f" after sample {last}"
        raise DamagedShard(
            f"shard {shard.url} is truncated or unreadable{after} ({failure(source) or reason}):"
            " fetch it again, or pass skip_bad=true to use what is whole"
        ) from None
    finally:
        with suppress(Exception):
            if source is not None:
                source.close()


def failure(source: Any) -> str | None:
    """What a command has to say about its own end, if it was one and failed."""
    with suppress(Exception):
        source.close()
    status = getattr(source, "status", None)
    return f"its command failed with exit status {status}" if status else None


def members(stream: "Stream") -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file of a tar, gzipped or not, and read on to the end of the stream."""
    buffered = io.BufferedReader(stream, 2**16)
    start = buffered.peek(2)[:2]
    if not start:
        raise EOFError("it has no bytes")
    plain: Any = gzip.GzipFile(fileobj=buffered) if start == b"\x1f\x8b" else buffered
    name: str | None = None  # of the next file, where an extra header gives it
    size: int | None = None
    while any(block := exactly(plain, tarfile.BLOCKSIZE)):  # a block of zeros is the end
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        length = 0 if header.type in EMPTY else header.size if size is None else size
        data = exactly(plain, length)
        exactly(plain, -length % tarfile.BLOCKSIZE)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif header.type == tarfile.XHDTYPE:
            records = pax_records(data)
            name, size = records.get("path"), int(records["size"]) if records.get("size", "").isdigit() else None
        else:
            if header.isreg():
                yield name or header.name, data
            name, size = None, None
    while plain.read(2**16):
        pass


def exactly(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, or raise EOFError where there are fewer."""
    if size < 0:
        raise tarfile.ReadError(f"a file in it has a size of {size}")
    data = file.read(size) if size else b""
    if len(data) < size:
        raise EOFError("its end is missing")
    return data


def pax_records(data: bytes) -> dict[str, str]:
    """Parse the records `length key=value` of an extended header."""
    records: dict[str, str] = {}
    while data[:1].isdigit():
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        if not len(digits) < length <= len(data):
            raise tarfile.ReadError("bad extended header")
        key, _, value = data[len(digits) + 1 : length].removesuffix(b"\n").partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records


def group(files: Iterable[tuple[str, bytes]]) -> Iterator[Sample]:
    """Put files that follow one another and share a name up to its first dot into one sample; drop unknown kinds."""
    key, sample = "", dict[str, bytes]()
    for name, data in files:
        folder, _, base = name.removeprefix("./").rpartition("/")
        stem, _, kind = base.partition(".")
        whole = f"{folder}/{stem}" if folder else stem
        if whole != key:
            if sample:
                yield key, sample
            key, sample = whole, {}
        if kind.lower() in KINDS:
            sample[kind.lower()] = data
    if sample:
        yield key, sample


class Stream(io.RawIOBase):
    """A binary stream that takes what is read into a checksum."""

    def __init__(self, source: Any) -> None:
        self.source, self.digest = source, hashlib.sha256()

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the source goes."""
        data = self.source.read(len(buffer))
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)
