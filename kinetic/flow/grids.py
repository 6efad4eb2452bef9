"""The times that a solver with a fixed grid visits."""

import math
from collections.abc import Sequence
from itertools import pairwise

from kinetic.errors import KineticError

GRIDS = ("uniform", "cosine")
MOST_STEPS = 100_000


def time_grid(
    grid: str | Sequence[float] = "uniform", steps: int = 100, *, start: float = 0.0, end: float = 1.0
) -> tuple[float, ...]:
    """Build the `steps` + 1 times from `start` to `end`, both in [0, 1]; they fall where `end` lies before `start`.

    `uniform` has equal steps; `cosine`, t = (1 - cos(π i / steps)) / 2, is fine at both ends; between other ends
    than 0 and 1 these are squeezed. A list of times, from `start` to `end`, is taken as it is (and `steps` is ignored).
    """
    for name, value in (("start", start), ("end", end)):
        if not 0 <= value <= 1:
            raise KineticError(f"{name} must lie in [0, 1], got {value}")
    if start == end:
        raise KineticError(f"start and end must differ, got {start} for both")
    if not isinstance(grid, str):
        return _listed(grid, start, end)
    if grid not in GRIDS:
        raise KineticError(f"unknown grid {grid!r:.80}; choose from {', '.join(GRIDS)}, or give a list of times")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise KineticError(f"steps must be a whole number of 1 to {MOST_STEPS:,}, got {steps!s:.40}")
    shares = [i / steps for i in range(steps + 1)]
    if grid == "cosine":
        shares = [(1 - math.cos(math.pi * i / steps)) / 2 for i in range(steps + 1)]
    return tuple(_between(start, end, share) for share in shares)


def as_times(grid: Sequence[float]) -> tuple[float, ...]:
    """Take a list of times as numbers."""
    try:
        return tuple(map(float, grid))
    except TypeError:
        raise KineticError(f"a grid must be a list of times, got {grid!r}") from None


def _listed(grid: Sequence[float], start: float, end: float) -> tuple[float, ...]:
    times = as_times(grid)
    rising = end > start
    ordered = all(a < b if rising else a > b for a, b in pairwise(times))
    if len(times) < 2 or not ordered or times[0] != start or times[-1] != end:
        shown = ", ".join(f"{t:g}" for t in times[:4]) + (", ..." if len(times) > 4 else "")
        raise KineticError(
            f"times must {'rise' if rising else 'fall'} strictly from {start:g} to {end:g}, got [{shown}]"
        )
    return times


def _between(start: float, end: float, share: float) -> float:
    """The point `share` of the way from `start` to `end`, exact at both."""
    return start + share * (end - start) if share < 0.5 else end - (end - start) * (1 - share)
