"""Faults become one line on stderr and a non-zero exit; KINETIC_TRACEBACK=1 shows where they came from."""

import os
import re
import sys
from collections.abc import Callable

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from kinetic.callbacks.stopping import Interrupted
from kinetic.errors import KineticError

EXPECTED = (KineticError, OSError, ArgumentError, MisconfigurationException, KeyboardInterrupt, Interrupted)
UNEXPECTED = 70  # exit status of a fault that is ours (EX_SOFTWARE of sysexits.h)


def guarded(command: Callable[[list[str]], None], args: list[str]) -> int:
    """Run a command and return its exit status; a fault is told in one line, one that we did not foresee as such."""
    try:
        command(args)
    except (*EXPECTED, Exception) as error:
        if os.environ.get("KINETIC_TRACEBACK"):
            raise
        return _tell(error) if isinstance(error, EXPECTED) else _tell_unexpected(error)
    return 0


def _tell_unexpected(error: BaseException) -> int:
    text = one_line(f"unexpected {type(error).__name__}: {error}")
    print(f"error: {text}; KINETIC_TRACEBACK=1 shows where, please report it", file=sys.stderr)
    return UNEXPECTED


def _tell(error: BaseException) -> int:
    if isinstance(error, Interrupted):
        print(error, file=sys.stderr)
        return 130
    if isinstance(error, KeyboardInterrupt):
        print("stopped; go on with --resume", file=sys.stderr)
        return 130
    line = _parser_line(str(error)) if isinstance(error, ArgumentError) else one_line(str(error))
    print(f"error: {line or type(error).__name__}", file=sys.stderr)
    return 2 if isinstance(error, ArgumentError) else 1


def _parser_line(message: str) -> str:
    """Make the parser's report of every type it tried one fault: what is wrong with what, and where to look."""
    key = re.search(r'Parser key "([^"]+)"', message)
    inner = re.search(
        r"Problem with given class_path '([^']+)':\s*(.+?)\s*(?:- Expected a|Given value|$)", message, re.S
    )
    if key and inner:
        message = f"{key[1]} ({inner[1]}): {inner[2]}"
    return f"{one_line(message)}; --print_config shows the keys that there are"


def one_line(message: str, limit: int = 600) -> str:
    """Fold a message to one line."""
    folded = " ".join(message.split())
    return folded if len(folded) <= limit else f"{folded[:limit]} ..."
