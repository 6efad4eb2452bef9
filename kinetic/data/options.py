"""Values of options, checked where a data set is made: one line names the option, the value and what is allowed."""

import math
from numbers import Integral, Real
from typing import Any

from kinetic.errors import KineticError

MOST_CLASSES = 10**6


def whole(option: str, value: Any, least: int, most: int) -> None:
    """Raise KineticError unless `value` is a whole number of `least` to `most`; a boolean is none."""
    allowed = f"pass {option} of {least:,} to {most:,}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise KineticError(f"{option}={_short(value)} is not a whole number: {allowed}")
    if int(value) < least:
        raise KineticError(f"{option}={_short(value)} is too small: {allowed}")
    if int(value) > most:
        raise KineticError(f"{option}={_short(value)} is too large: {allowed}")


def factor(option: str, value: Any) -> None:
    """Raise KineticError unless `value` is a finite number other than 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value == 0:
        raise KineticError(f"{option}={_short(value)} is not allowed: pass a finite number other than 0")


def switch(option: str, value: Any) -> None:
    """Raise KineticError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise KineticError(f"{option}={_short(value)} is neither true nor false: pass one of them")


def text(option: str, value: Any) -> None:
    """Raise KineticError unless `value` is a text with something in it, and no zero byte."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise KineticError(f"{option}={_short(value)} is no text that names anything: pass one")


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 100:
        return f"a number of {value.bit_length():,} bits"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
