"""The shapes that a gain rises or falls by, of numbers and of tensors, and the areas under them."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Form = Literal["linear", "constant", "exponential"]
FORMS: tuple[str, ...] = get_args(Form)
Pairs = Sequence[tuple[float, float]]  # (t, value) of rising times


def clamped(s: Any) -> Any:
    """Bring `s` into [0, 1]."""
    return s.clamp(0, 1) if isinstance(s, Tensor) else min(max(s, 0.0), 1.0)


def ramp(s: Any, form: Form, k: float) -> Any:
    """Return 1 (constant), s (linear) or e^{ks} - 1 (exponential), for `s` in [0, 1]."""
    if form == "constant":
        return torch.ones_like(s) if isinstance(s, Tensor) else 1.0
    if form == "linear":
        return s
    return torch.expm1(k * s) if isinstance(s, Tensor) else math.expm1(k * s)


def area(s: float, form: Form, k: float) -> float:
    """Return the integral of `ramp` from 0 to `s`."""
    if form == "constant":
        return s
    return s * s / 2 if form == "linear" else (math.expm1(k * s) - k * s) / k


def between(pairs: Pairs, t: Any) -> Any:
    """Linear between the pairs (t, value), constant beyond: of a number or of a tensor."""
    found = t * 0 + pairs[0][1]
    for (start, low), (end, high) in pairwise(pairs):
        found = found + (high - low) * clamped((t - start) / (end - start))
    return found


def mean_between(pairs: Pairs, start: float, end: float) -> float:
    """Mean of `between` over the times from `start` to `end` > `start`, exactly."""
    times = [start, *(t for t, _ in pairs if start < t < end), end]
    values = [between(pairs, t) for t in times]
    pieces = zip(pairwise(times), pairwise(values), strict=True)
    return float(sum((b - a) * (x + y) / 2 for (a, b), (x, y) in pieces) / (end - start))
