"""The processes of one training end together: where one is lost, the others end within seconds, and one tells of it.

A collective that waits for a process which is gone may wait for half an hour, and a process that is still importing or
computing learns nothing from it at all. So the first process looks after those that it started, and they after it.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen

FIRST = "KINETIC_FIRST"  # how the first process tells those that it starts who it is
GO_ON = "KINETIC_GO_ON"  # how it tells them what its user should do when one of them is lost
RESUME, AGAIN = "go on with --resume", "what is whole is kept: give the same command again"
EVERY = 0.25  # seconds between two looks
GRACE = 3.0  # seconds in which a process may end by itself, with its own words, when another is lost
ENDING = 5.0  # further seconds for one that is ending already

_children: Callable[[], list["Popen[bytes]"]] = list
_telling = threading.Lock()


def rank() -> int:
    """Which of the processes of a training this is."""
    text = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return int(text) if text.isdecimal() else 0


def tell(line: str) -> None:
    """Write the one line with which a process ends, if it has not written one."""
    if _telling.acquire(blocking=False):
        print(line, file=sys.stderr, flush=True)


@contextmanager
def watching(
    children: Callable[[], list["Popen[bytes]"]], ending: Callable[[], bool], *, advice: str = RESUME
) -> Iterator[None]:
    """End this process when one that it started fails; `ending` says that this one is about to end by itself.

    What failed is looked after beyond the block, until this process has ended. `advice` is what its user should do.
    """
    global _children
    if rank() > 0:
        yield
        return
    _children, done = children, threading.Event()
    os.environ[FIRST], os.environ[GO_ON] = str(os.getpid()), advice
    threading.Thread(target=_watch_children, args=(ending, done), daemon=True, name="kinetic-children").start()
    try:
        yield
        done.set()
    finally:
        os.environ.pop(FIRST, None)
        started = children()
        _children = lambda: started  # noqa: E731


def begin() -> None:
    """Begin a command, which has told nothing yet; it ends when the process that started it for a training is gone."""
    global _telling
    _telling = threading.Lock()
    if _first() is not None:
        threading.Thread(target=_watch_first, daemon=True, name="kinetic-first").start()


def lost() -> None:
    """Tell that another process was lost, unless one that is still there does so; the caller ends this process."""
    if _first() is None:
        tell(line())
        return
    deadline = time.monotonic() + GRACE
    while not _is_orphan() and time.monotonic() < deadline:
        time.sleep(EVERY / 5)
    if _is_orphan() and rank() == 1:
        tell(line())


def end_children() -> None:
    """End the processes that this one started, which would else tell of its end."""
    for child in _children():
        if child.poll() is None:
            child.kill()


def give_way() -> None:
    """Give the first process time to tell of the same fault, and to end this one."""
    if _first() is not None:
        time.sleep(GRACE / 2)


def line() -> str:
    """What is said of a process that was lost."""
    return f"error: another process of this run has ended, so this one ends too; {os.environ.get(GO_ON, RESUME)}"


def _watch_children(ending: Callable[[], bool], done: threading.Event) -> None:
    while not (failed := [child.returncode for child in _children() if child.poll()]):
        if done.wait(EVERY):
            return
    time.sleep(GRACE)
    if ending():
        if all(status > 0 for status in failed):
            return  # it said why, and this process is ending as well
        time.sleep(ENDING)
    tell(line())
    end_children()
    os._exit(1)


def _watch_first() -> None:
    while not _is_orphan():
        time.sleep(EVERY)
    time.sleep(GRACE)
    if rank() == 1:
        tell(line())
    os._exit(1)


def _first() -> int | None:
    """The process that started this one for the same training."""
    text = os.environ.get(FIRST, "")
    return int(text) if rank() > 0 and os.name == "posix" and text.isdecimal() else None


def _is_orphan() -> bool:
    return os.getppid() != _first()
