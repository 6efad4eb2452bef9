"""One process at a time: a lock that ends with its process, however that ends."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from kinetic.errors import KineticError
from kinetic.store.plain import read_json

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"


class Lock:
    """Holds `folder`/.lock, which names process and host, until `release`.

    The operating system lets go of it when the process ends; where it has no such locks, or the folder lies on a disk
    without them, the process that the file names is looked for.
    """

    def __init__(self, folder: Path, *, what: str) -> None:
        """Take the lock; KineticError that names who has it, `what` being done in the folder."""
        self.path = folder / FILE
        while True:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            if not self._acquired():
                os.close(self.descriptor)
                raise KineticError(f"{folder} is being {what} by {_owner(self.path)}; wait for it, or stop it")
            if _same_file(self.descriptor, self.path):
                break
            os.close(self.descriptor)  # removed by the one before, between opening and locking
        about = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(about).encode(), 0)

    def _acquired(self) -> bool:
        if fcntl is not None:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # no locks on this disk
                return not _lives(_about(self.path))
            return True
        return not _lives(_about(self.path))

    def release(self) -> None:
        """Remove the file and let go; a second call does nothing."""
        if self.descriptor < 0:
            return
        if _same_file(self.descriptor, self.path):
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
        self.descriptor = -1


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of `folder`."""
    if not (folder / FILE).is_file():
        return False
    try:
        Lock(folder, what="used").release()
    except KineticError:
        return True
    return False


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _about(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except KineticError:
        return {}
    return found if isinstance(found, dict) else {}


def _owner(path: Path) -> str:
    about = _about(path)
    return f"process {about.get('process', '?')} on {about.get('host', '?')} (since {about.get('since', '?')})"[:200]


def _lives(about: dict[str, Any]) -> bool:
    """Whether the process that a lock file names is there, as far as this host can tell."""
    process = about.get("process")
    if not isinstance(process, int) or process == os.getpid():
        return False
    if about.get("host") != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
