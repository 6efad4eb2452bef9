"""Faults become one line on stderr and a non-zero exit; KINETIC_TRACEBACK=1 shows where they came from."""

import os
import sys
from collections.abc import Callable

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from kinetic.callbacks.stopping import Interrupted

EXPECTED = (ValueError, OSError, ArgumentError, MisconfigurationException, KeyboardInterrupt, Interrupted)


def guarded(command: Callable[[list[str]], None], args: list[str]) -> int:
    """Run a command and return its exit status; expected faults are told in one line, others keep their traceback."""
    try:
        command(args)
    except EXPECTED as error:
        if os.environ.get("KINETIC_TRACEBACK"):
            raise
        return _tell(error)
    return 0


def _tell(error: BaseException) -> int:
    if isinstance(error, Interrupted):
        print(error, file=sys.stderr)
        return 130
    if isinstance(error, KeyboardInterrupt):
        print("stopped; go on with --resume", file=sys.stderr)
        return 130
    print(f"error: {one_line(str(error)) or type(error).__name__}", file=sys.stderr)
    return 2 if isinstance(error, ArgumentError) else 1


def one_line(message: str, limit: int = 600) -> str:
    """Fold a message to one line."""
    folded = " ".join(message.split())
    return folded if len(folded) <= limit else f"{folded[:limit]} ..."
