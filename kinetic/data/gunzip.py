"""Unpack gzip as a stream, bounded: what grows out of all proportion, or never ends, is no shard."""

import io
import zlib
from typing import Any

CHUNK = 2**14
RATIO = 250  # times its size that a stream may unpack to, ...
FREE = 2**26  # ... beyond these bytes
PADDING = 2**24  # zeros that may follow the end


class Gunzip(io.RawIOBase):
    """The unpacked bytes of a gzip stream of one or more parts.

    A stream that breaks off is an EOFError, one that is damaged a zlib.error, one that unpacks to more than RATIO
    times its size an OverflowError.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.engine: Any = zlib.decompressobj(31)
        self.rest = b""
        self.packed = self.unpacked = self.zeros = 0

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as one step of the engine goes."""
        while True:
            if self.engine.eof and not self._next_part():
                return 0
            data = self.rest or self._read()
            if not data:
                raise EOFError("its end is missing")
            found = self.engine.decompress(data, len(buffer))
            self.rest = self.engine.unconsumed_tail
            if found:
                self.unpacked += len(found)
                if self.unpacked > RATIO * self.packed + FREE:
                    raise OverflowError(f"it unpacks to more than {RATIO} times its size")
                buffer[: len(found)] = found
                return len(found)

    def _read(self) -> bytes:
        data: bytes = self.source.read(CHUNK)
        self.packed += len(data)
        return data

    def _next_part(self) -> bool:
        data = self.engine.unused_data or self._read()
        while data and not (kept := data.lstrip(b"\0")):
            self.zeros += len(data)
            if self.zeros > PADDING:
                raise OverflowError("nothing but zeros follow its end, without end")
            data = self._read()
        if not data:
            return False
        self.engine, self.rest = zlib.decompressobj(31), kept
        return True
