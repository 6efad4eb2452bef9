"""Small good inputs, to be made bad: images, arrays, tars, manifests; and limits of time and memory."""

import hashlib
import io
import json
import signal
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SECONDS = 20
BYTES = 200 * 2**20


def png(value: int = 7, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    """A picture of one value."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def picture(array: np.ndarray, format: str) -> bytes:
    """An array as a file of an image format."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """An array as npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_header(header: str, data: bytes = b"") -> bytes:
    """Any text as the header of an npy file."""
    text = header.encode("latin1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], **header: Any) -> Path:
    """A tar of files, with fields of every header as they are given; gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode: Any = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in header.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, data: bytes, *, size: int | None = None, type: bytes = tarfile.REGTYPE) -> bytes:
    """The blocks of one member, whose header may lie about the size."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data) if size is None else size, type
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def many(count: int = 6, start: int = 0) -> dict[str, bytes]:
    """Samples of three classes."""
    files = {}
    for i in range(start, start + count):
        files |= {f"{i:04d}.png": png(i), f"{i:04d}.cls": str(i % 3).encode()}
    return files


def manifest(folder: Path, **changes: Any) -> Path:
    """A shard `a.tar` of six samples and its manifest, with fields changed; `entry` changes those of the shard."""
    path = tar(folder / "a.tar", many())
    data = path.read_bytes()
    keys = [f"{i:04d}" for i in range(6)]
    entry = {"file": "a.tar", "count": 6, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    entry |= {"keys": keys, "labels": [i % 3 for i in range(6)]} | changes.pop("entry", {})
    content = {"format": 1, "count": 6, "shape": [3, 4, 4], "num_classes": 3, "class_names": ["x", "y", "z"]}
    (folder / "manifest.json").write_text(json.dumps(content | {"shards": [entry]} | changes))
    return folder


@contextmanager
def limited() -> Iterator[None]:
    """Fail after SECONDS, and where Python's memory grew by more than BYTES."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
