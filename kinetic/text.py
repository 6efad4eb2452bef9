"""Numbers, percentages and aligned tables as people read them."""

import math


def short(value: float, digits: int = 4) -> str:
    """Format a number with `digits` significant figures; a dash where it is not finite."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def percent(value: float) -> str:
    """Format a fraction as a percentage with one decimal; a dash where it is not finite."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"


def aligned(lines: list[list[str]]) -> str:
    """Align cells in columns, the first to the left and all others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def cell(value: float, form: str, unit: str = "") -> str:
    """Format a number for a table; a dash where it is not finite."""
    return f"{value:{form}}{unit}" if math.isfinite(value) else "-"


def duration(seconds: float) -> str:
    """Say how long something takes: 3 s, 2 min 5 s or 1 h 20 min."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours:,} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"
