"""Faults become one line on stderr and a non-zero exit; KINETIC_TRACEBACK=1 shows where they came from."""

import argparse
import os
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kinetic.callbacks.stopping import Interrupted
from kinetic.cli import partners
from kinetic.errors import KineticError

EXPECTED = (KineticError, OSError, argparse.ArgumentError, MisconfigurationException)
STOPPED = (KeyboardInterrupt, Interrupted, SIGTERMException)
UNEXPECTED = 70  # exit status of a fault that is ours (EX_SOFTWARE of sysexits.h)
LOST = ("connection closed by peer", "gloo", "nccl", "broken pipe", "connection reset", "connection refused")


def guarded(command: Callable[[list[str]], None], args: list[str]) -> int:
    """Run a command and return its exit status; a fault is told in one line, one that we did not foresee as such."""
    try:
        command(args)
    except (*STOPPED, Exception) as error:
        if os.environ.get("KINETIC_TRACEBACK"):
            raise
        return _told(error)
    return 0


def stop_of(error: BaseException) -> BaseException | None:
    """The request to stop that an error is, or that Lightning made a SystemExit of; None of other errors."""
    cause = error.__context__ if isinstance(error, SystemExit) and not isinstance(error, STOPPED) else error
    return cause if isinstance(cause, STOPPED) else None


def _told(error: BaseException) -> int:
    """Tell of an error, once over all processes of a training, and return the exit status."""
    status, line = _status_and_line(error)
    if _is_lost(error):
        partners.lost()
    elif not isinstance(error, STOPPED):
        partners.give_way()
        partners.tell(line)
    elif partners.rank() == 0:
        partners.tell(line)
    partners.end_children()
    return status


def _status_and_line(error: BaseException) -> tuple[int, str]:
    if isinstance(error, Interrupted):
        return 128 + error.number, one_line(str(error))
    if isinstance(error, STOPPED):
        return (130 if isinstance(error, KeyboardInterrupt) else 143), one_line(
            str(error.args[0])
        ) if error.args else "stopped"
    if isinstance(error, EXPECTED):
        return (2 if isinstance(error, argparse.ArgumentError) else 1), f"error: {_words(error)}"
    if _is_memory(error):
        return 1, f"error: there is not enough memory ({one_line(str(error), 120)}); pass a smaller batch or network"
    if _is_lost(error):
        return 1, partners.line()
    text = one_line(f"unexpected {type(error).__name__}: {error}")
    return UNEXPECTED, f"error: {text}; KINETIC_TRACEBACK=1 shows where, please report it"


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{one_line(str(error.filename), 200)}: {one_line(error.strerror)}"
    return one_line(str(error)) or type(error).__name__


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out, which torch tells of on a CPU by a RuntimeError."""
    text = str(error).lower()
    asked = "allocat" in text and ("memory" in text or "bytes" in text)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and (asked or "out of memory" in text))


def _is_lost(error: BaseException) -> bool:
    """Whether the connection to another process broke."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(word in text for word in LOST)


def one_line(message: str, limit: int = 600) -> str:
    """Fold a message to one line."""
    folded = " ".join(message.split())
    return folded if len(folded) <= limit else f"{folded[:limit]} ..."
