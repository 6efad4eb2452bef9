"""Read webdataset tars one sample after another: nothing in them is executed, and damage is noticed and named."""

import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from webdataset.gopen import gopen

from kinetic.data.grouping import FORMAT, KINDS, LINK, UNREAD, Grouper, LeftOut, Sample
from kinetic.data.gunzip import Gunzip
from kinetic.data.names import LONGEST, shown
from kinetic.data.sources import Shard
from kinetic.errors import KineticError

BLOCK = tarfile.BLOCKSIZE
EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
MOST = {kind: 2**28 for kind in KINDS} | {"cls": 2**12, "json": 2**22}  # bytes of one member
EXTENDED = 2**20  # bytes of an extended header
TAIL = 2**26  # bytes that may follow the end of the archive
PIECE = 2**20
FETCH = "fetch it again, or pass skip_bad=true to use what is whole"
SPARSE = "it was written as sparse", "write it again without --sparse"
JOINED = "more follows the end of its archive, as where tars were joined", "unpack it and write it again"
DAMAGE = (OSError, EOFError, ValueError, zlib.error, tarfile.TarError, OverflowError, MemoryError)


class DamagedShard(KineticError):
    """A shard that ends too early or cannot be read, found behind its last whole sample."""


class _Unfit(Exception):
    """What is wrong with a tar that is whole, and the fix."""


def read_samples(shard: Shard, left_out: LeftOut | None = None) -> Iterator[Sample]:
    """Yield (key, bytes by kind) for every sample of a tar, in its order, kinds in small letters.

    A tar that cannot be opened, is truncated or differs from its checksum is a DamagedShard error, raised behind its
    last whole sample. Images that are not used are added to `left_out`.
    """
    last, source = None, None
    grouper = Grouper(left_out)
    try:
        source = _open(shard)
        stream = Stream(source, digest=shard.sha256 is not None)
        tape = Tape(shard, source, stream)
        for name, data in members(tape, grouper.left_out):
            for sample in grouper.add(name, data):
                yield sample
                last = sample[0]
        for sample in grouper.end():
            yield sample
            last = sample[0]
        source.close()  # a command that failed says so here
        if shard.sha256 is not None and stream.digest.hexdigest() != shard.sha256:
            raise EOFError("its SHA-256 is not that of manifest.json")
        if tape.followed:
            raise _Unfit(*JOINED)
    except (*DAMAGE, _Unfit) as error:
        if isinstance(error, KineticError):
            raise
        for sample in grouper.end()[:-1]:
            yield sample
            last = sample[0]
        reason = " ".join(str(error).split()) or type(error).__name__
        fix = FETCH
        if isinstance(error, _Unfit):
            reason, fix = error.args
        after = "" if last is None else f" after sample {shown(last)}"
        raise DamagedShard(
            f"shard {shown(shard.url)} is truncated or unreadable{after} ({failure(source) or reason}): {fix}"
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


def members(tape: "Tape", left_out: LeftOut) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file of a kind in KINDS, and read on to the end of the stream.

    What macOS adds to tars and hidden files are passed over; images that cannot be used are added to `left_out`.
    """
    given: str | None = None  # name of the next file, where an extra header gives it
    size: int | None = None
    while (block := tape.exactly(BLOCK)).count(0) < BLOCK:  # a block of zeros is the end
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
            data = tape.extended(header.size)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                given = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
                if not given:
                    raise tarfile.ReadError("a long name in it is empty")
            elif header.type == tarfile.XHDTYPE:
                records = pax_records(data)
                if any(key.startswith("GNU.sparse.") for key in records):
                    raise _Unfit(*SPARSE)
                given = records.get("path", given)
                size = int(records["size"]) if re.fullmatch("[0-9]{1,18}", records.get("size", "")) else size
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise _Unfit(*SPARSE)
        length = 0 if header.type in EMPTY else header.size if size is None else size
        name = (given or header.name).removeprefix("./")
        given, size = None, None
        if len(name) > LONGEST:
            raise tarfile.ReadError(f"a name in it has {len(name):,} characters")
        kind = _kind(name)
        if kind in KINDS and header.isreg():
            if length > MOST[kind]:
                what = f"{shown(name)} in it has {length:,} bytes, at most {MOST[kind]:,} are read"
                raise _Unfit(what, "write it again without")
            data = tape.exactly(length)
            tape.skip(-length % BLOCK)
            yield name, data
            continue
        if kind in UNREAD or (kind in KINDS and kind != "cls" and kind != "json"):
            left_out.add(LINK if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE) else FORMAT, name)
        tape.skip(length + -length % BLOCK)
    if given is not None or size is not None:
        raise EOFError("its end is missing")
    tape.finish()


def _kind(name: str) -> str:
    """What a member is, by its name; nothing if it is hidden or of macOS."""
    folder, _, base = name.rpartition("/")
    if base.startswith(".") or "." not in base or "__MACOSX" in folder.split("/"):
        return ""
    return base.rpartition(".")[2].lower()


def pax_records(data: bytes) -> dict[str, str]:
    """Parse the records `length key=value` of an extended header."""
    records: dict[str, str] = {}
    place = 0
    while data[place : place + 1].isdigit():
        space = data.find(b" ", place, place + 20)
        digits = data[place:space] if space > 0 else b""
        end = place + int(digits) if digits.isdigit() else 0
        if not space < end <= len(data):
            raise tarfile.ReadError("bad extended header")
        key, _, value = data[space + 1 : end].removesuffix(b"\n").partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        place = end
    return records


class Tape:
    """The plain bytes of a tar from front to back, never more than were declared and are there."""

    def __init__(self, shard: Shard, source: Any, stream: "Stream") -> None:
        """Read `stream`, which reads `source`, gzipped or not; a plain local file is read past the stream."""
        buffered: Any = io.BufferedReader(stream, 2**16)
        start = buffered.peek(2)[:2]
        if not start:
            raise EOFError("it has no bytes")
        self.followed = False  # whether anything but zeros lies behind the end
        self.left: int | None = None  # bytes that are left of a plain local file
        self.seeks = False
        self.file: Any = buffered
        if start == b"\x1f\x8b":
            self.file = io.BufferedReader(Gunzip(buffered), 2**16)
        elif not shard.remote:
            self.left = os.fstat(source.fileno()).st_size
            if not stream.counting:
                source.seek(0)
                self.file, self.seeks = source, True

    def exactly(self, size: int) -> bytes:
        """Read `size` bytes, or raise EOFError where there are fewer."""
        self._take(size)
        if size <= PIECE or self.left is not None:
            data: bytes = self.file.read(size) if size else b""
        else:
            data = b"".join(self._pieces(size))
        if len(data) < size:
            raise EOFError("its end is missing")
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes without holding them."""
        if self.seeks and size > PIECE:
            self._take(size)
            self.file.seek(size, os.SEEK_CUR)
            return
        while size > PIECE:
            size -= len(self.exactly(PIECE))
        self.exactly(size)

    def extended(self, size: int) -> bytes:
        """Read an extended header of `size` bytes and its padding."""
        if size > EXTENDED:
            raise tarfile.ReadError(f"an extended header in it has {size:,} bytes, at most {EXTENDED:,} are read")
        data = self.exactly(size)
        self.exactly(-size % BLOCK)
        return data

    def finish(self) -> None:
        """Read what follows the end of the archive, which is nothing but zeros."""
        total = 0
        while data := self.file.read(2**16):
            total += len(data)
            self.followed = self.followed or data.count(0) < len(data)
            if total > TAIL:
                raise OverflowError(f"more than {TAIL:,} bytes follow the end of its archive")

    def _take(self, size: int) -> None:
        if size < 0:
            raise tarfile.ReadError(f"a file in it has a size of {size}")
        if self.left is not None:
            if size > self.left:
                raise EOFError("its end is missing")
            self.left -= size

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size and (piece := self.file.read(min(size, PIECE))):
            size -= len(piece)
            yield piece


class Stream(io.RawIOBase):
    """A binary stream that takes what is read into a checksum where `digest` says so."""

    def __init__(self, source: Any, *, digest: bool) -> None:
        self.source, self.digest, self.counting = source, hashlib.sha256(), digest

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the source goes."""
        data = self.source.read(len(buffer))
        if self.counting:
            self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def _open(shard: Shard) -> Any:
    if shard.remote:
        return gopen(shard.url)
    if not os.path.isfile(shard.url):
        raise FileNotFoundError("it is gone" if not os.path.lexists(shard.url) else "it is not a regular file")
    return open(shard.url, "rb")
