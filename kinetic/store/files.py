"""Files that are either whole or absent, written beside their place and renamed; and one that grows at its end."""

import errno
import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFT_OVER = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, moved onto it when the block succeeds and removed when it fails.

    Creates the folder. A full disk becomes one OSError line that names the file; what stood there before stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with _telling_of_space(target):
            yield beside
            os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def append(path: Path | str, data: bytes, *, at: int) -> None:
    """Write `data` behind the first `at` bytes of a file, which are all it has; a full disk leaves those alone."""
    with _telling_of_space(path), open(path, "r+b", buffering=0) as file:
        file.seek(at)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(at)
            raise


@contextmanager
def _telling_of_space(target: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some, then continue (train.py --resume, or the same command again)"
            raise OSError(error.errno, f"no space left to write {target}; {advice}") from None
        raise


def remove_left_over(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`; whoever calls this owns the folder."""
    for path in folder.glob(".*.tmp"):
        if is_left_over(path):
            path.unlink(missing_ok=True)


def is_left_over(path: Path) -> bool:
    """Whether `path` is a temporary file as `replacing` makes them."""
    return LEFT_OVER.fullmatch(path.name) is not None and path.is_file()


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, NAME.damaged, NAME.damaged-2, ..., and return it."""
    names = (path.with_name(f"{path.name}.damaged{f'-{n}' if n > 1 else ''}") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    os.replace(path, aside)
    return aside


def write_text(path: Path | str, text: str) -> None:
    """Write a whole text file."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
