"""Whether a setting does what no control does: fewer copies among samples that are moved as little."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from kinetic.plots import Point
from kinetic.studies.compare import Row

SAME = 1 + 1e-6  # distances this close count as equal: matched noise moves samples as far but for rounding


class Copies(NamedTuple):
    """F_mem and its interval."""

    value: float
    low: float
    high: float


def copies_of(row: Row) -> Copies:
    """F_mem after cleaning, which noise cannot hide copies from, where it is known, else F_mem."""
    cleaned = row.more.get("f_mem_cleaned")
    return Copies(row.f_mem, row.low, row.high) if cleaned is None else Copies(cleaned.value, cleaned.low, cleaned.high)


def point_of(row: Row, *, control: bool) -> Point:
    """Where a row lies in the picture of copies and quality."""
    copies = copies_of(row)
    return Point(row.setting, copies.value, copies.low, copies.high, fd_of(row), control)


def fd_of(row: Row) -> float:
    """Fréchet distance of a row; NaN where quality was left out."""
    return row.more["fd"].value if "fd" in row.more else math.nan


def judged(rows: Sequence[Row], controls: Collection[str], *, first: str = "off") -> list[Row]:
    """Give every setting that is neither `first` nor a control its verdict; none where copies were not looked for.

    It *loses* to a control that moves samples no farther from those of `first` and has copies no more frequent, both
    ends of the interval included. It is *not told apart* from one that moves them no farther and whose interval
    overlaps; `first`, which does not move them at all, counts too. A setting with fewer copies than all of these may
    still be worse in ways that neither number sees: where there are Fréchet distances, it is also said whether a
    control has both no more copies and a smaller one.
    """
    names = {first, *controls}
    against = [row for row in rows if row.setting in names]
    return [row if row.setting in names else replace(row, verdict=_verdict(row, against)) for row in rows]


def _verdict(row: Row, controls: Sequence[Row]) -> str:
    said = [_of_copies(row, controls), _of_quality(row, controls)]
    return "; ".join(part for part in said if part)


def _of_quality(row: Row, controls: Sequence[Row]) -> str:
    """Whether a control beats a setting in copies and in Fréchet distance."""
    own = row.more.get("fd")
    if own is None or math.isnan(copies_of(row).value):
        return ""
    better = [c for c in controls if "fd" in c.more and c.more["fd"].value < own.value]
    better = [c for c in better if copies_of(c).value <= copies_of(row).value]
    if not better:
        return "no control has both no more copies and a smaller fd"
    best = min(better, key=lambda c: c.more["fd"].value)
    return (
        f"loses in fd to {best.setting!r}, which has no more copies "
        f"({_share(copies_of(best))}): {best.more['fd'].value:.3g} against {own.value:.3g}"
    )


def _of_copies(row: Row, controls: Sequence[Row]) -> str:
    own = copies_of(row)
    near = [c for c in controls if c.residual <= row.residual * SAME and not math.isnan(copies_of(c).value)]
    if math.isnan(own.value) or not near:
        return ""
    best = min(near, key=lambda c: (copies_of(c), c.residual))
    theirs = copies_of(best)
    figures = (
        f"F_mem{' cleaned' if 'f_mem_cleaned' in row.more else ''} {_share(theirs)} against {_share(own)}, "
        f"moved {best.residual:.3g} against {row.residual:.3g}"
    )
    if theirs.low <= own.low and theirs.high <= own.high:
        return f"loses to {best.setting!r}: {figures}"
    if theirs.low <= own.high:
        return f"not told apart from {best.setting!r}: {figures}"
    return f"fewer copies than the best control that moves samples as little, {best.setting!r}: {figures}"


def _share(copies: Copies) -> str:
    return f"{100 * copies.value:.1f} % ({100 * copies.low:.1f} to {100 * copies.high:.1f} %)"


def verdict_lines(rows: Sequence[Row]) -> str:
    """The verdicts, a line each."""
    return "\n".join(f"{row.setting}: {row.verdict}" for row in rows if row.verdict)
