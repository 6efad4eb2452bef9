"""The picture of the layers: who imports whom, drawn from the code."""

from collections import Counter
from html import escape

from docs.making.house import FLOORS, ROOMS, home, modules, purpose, users

GROUND = tuple(room for rooms in FLOORS[:3] for room in rooms)  # single modules that everything stands on
ROW, CELL, NAMES, HEAD = 28, 30, 120, 92  # heights and widths, in the picture's own units


def picture() -> str:
    """An SVG: one row a room, from the command lines down to the ground, with a dot where it uses a lower room."""
    names = [*(room for room in reversed(ROOMS) if room not in (*GROUND, "kinetic.__main__")), "ground"]
    used = _used()
    width, height = NAMES + len(names) * CELL + 40, HEAD + len(names) * ROW + 8
    parts = [f'<svg class="layers" viewBox="0 0 {width} {height}" role="img" aria-label="{_said(names, used)}">']
    for column, name in enumerate(names):
        x = NAMES + (column + 0.5) * CELL
        parts.append(f'<text class="head" transform="translate({x + 4},{HEAD - 8}) rotate(-60)">{_short(name)}</text>')
    for row, name in enumerate(names):
        parts.append(_row(row, name, names, used))
    return "\n".join([*parts, "</svg>"])


def _row(row: int, name: str, names: list[str], used: dict[tuple[str, str], int]) -> str:
    y = HEAD + (row + 0.5) * ROW
    parts = [f'<rect class="band" x="0" y="{y - ROW / 2}" width="100%" height="{ROW}"/>'] if row % 2 == 0 else []
    label = f'<text class="room" x="{NAMES - 12}" y="{y + 5}">{_short(name)}</text>'
    parts.append(label if name == "ground" else f'<a href="../reference/api/{_short(name)}.html">{label}</a>')
    for column, other in enumerate(names):
        x, count = NAMES + (column + 0.5) * CELL, used.get((name, other), 0)
        if other == name:
            parts.append(f'<rect class="self" x="{x - 6}" y="{y - 6}" width="12" height="12" rx="3"/>')
        elif count:
            title = f"{_short(name)} uses {_short(other)} in {count} module{'s' * (count > 1)}"
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="{min(2.5 + count**0.5, 9):.1f}"><title>{title}</title></circle>'
            )
    return "\n".join(parts)


def _used() -> dict[tuple[str, str], int]:
    """How many modules of a room use another, with the modules of the ground as one room."""
    found = Counter[tuple[str, str]]()
    for (user, other), count in users().items():
        used = "ground" if other in GROUND else other
        if user not in GROUND:
            found[user, used] += count
    return found


def _short(room: str) -> str:
    return room.removeprefix("kinetic.")


def _said(names: list[str], used: dict[tuple[str, str], int]) -> str:
    """The picture in words, for those who do not see it."""
    lines = [f"{_short(n)} uses {', '.join(_short(o) for o in names if (n, o) in used) or 'nothing'}" for n in names]
    return escape("; ".join(lines))


def rooms() -> str:
    """A table of the rooms, from the top: what each is for, its modules and lines."""
    sizes, lines = Counter[str](), Counter[str]()
    for module, path in modules().items():
        room = home(module) or "kinetic"
        sizes[room] += 1
        lines[room] += len(path.read_text().splitlines())
    rows = [
        f"| `{room}` | {purpose(room)} | {sizes[room]} | {lines[room]:,} |"
        for room in reversed(ROOMS)
        if room != "kinetic.__main__"
    ]
    total = f"| together | | {sizes.total()} | {lines.total():,} |"
    return "\n".join(["| room | what it is for | modules | lines |", "|---|---|--:|--:|", *rows, total])
