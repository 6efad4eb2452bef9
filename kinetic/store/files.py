"""Files that are either whole or absent: written beside their place and renamed."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, moved onto it when the block succeeds and removed when it fails.

    Creates the folder. A full disk becomes one OSError line that names the file; what stood there before stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.replace(beside, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some, then continue (train.py --resume, or the same command again)"
            raise OSError(error.errno, f"no space left to write {target}; {advice}") from None
        raise
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a whole text file."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
