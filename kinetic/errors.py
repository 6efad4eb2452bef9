"""Faults that are the user's to mend, told apart from our own."""

from collections.abc import Iterator
from contextlib import contextmanager

# What libraries raise over values and names that they were passed.
COMPLAINTS = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, ImportError)


class KineticError(ValueError):
    """Something that was passed in cannot work; the message names the value, what is allowed, and the fix.

    The command lines show it as one line. Any other exception is taken for a fault of Kinetic's own.
    """


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn a library's complaint about `what` the user passed to it into a KineticError."""
    try:
        yield
    except KineticError:
        raise
    except COMPLAINTS as error:
        raise KineticError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 200 characters, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
