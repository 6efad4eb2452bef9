"""What a study found, and how it is left behind: tables, pictures, one page, and the protocol beside every number."""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kinetic.metrics.statistics import Estimate
from kinetic.plots import save
from kinetic.report.page import Section, chart, paragraph, render, table
from kinetic.samples.export import write_columns
from kinetic.store.files import write_text
from kinetic.text import aligned, short
from kinetic.units import energies_of

Cell = str | int | float | Estimate | None
Rows = Sequence[Mapping[str, Cell]]
NOTE = "note"  # the column that says why cells of a row are empty; the last one


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of named cells, which need not have the same names.

    Attributes:
        rows: a cell is a text, a number, a number with its interval, or nothing.
        caption: what the rows are, in a sentence.
        shares: columns that people read in percent.
        quiet: columns that are written, but not shown.
        digits: significant figures that are shown.
    """

    rows: Rows
    caption: str = ""
    shares: Collection[str] = ()
    quiet: Collection[str] = ()
    digits: int = 4

    @property
    def names(self) -> list[str]:
        """The columns, in the order in which they first appear; notes last."""
        found = dict.fromkeys(name for row in self.rows for name in row if name != NOTE)
        return [*found, *([NOTE] if any(row.get(NOTE) for row in self.rows) else [])]

    def columns(self) -> dict[str, list[Any]]:
        """Columns of plain cells; a number with an interval has two more, NAME_low and NAME_high."""
        made: dict[str, list[Any]] = {}
        for name in self.names:
            cells = [row.get(name) for row in self.rows]
            made[name] = [cell.value if isinstance(cell, Estimate) else cell for cell in cells]
            if any(isinstance(cell, Estimate) for cell in cells):
                for end in ("low", "high"):
                    made[f"{name}_{end}"] = [
                        getattr(cell, end) if isinstance(cell, Estimate) else None for cell in cells
                    ]
        return made

    def shown(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as people read them."""
        names = [name for name in self.names if name not in self.quiet]
        shares = {name: name in self.shares for name in names}
        body = [[_shown(row.get(n), share=s, digits=self.digits) for n, s in shares.items()] for row in self.rows]
        return [_title(name) for name in names], body

    def text(self) -> str:
        """The table for a terminal; notes stand below, as they are long."""
        head, body = self.shown()
        if head[-1:] != [NOTE]:
            return aligned([head, *body])
        notes = [f"{row[0]}: {row[-1]}" for row in body if row[-1] != "–"]
        return "\n".join([aligned([head[:-1], *(row[:-1] for row in body)]), *notes])

    def markdown(self) -> str:
        """The table in Markdown."""
        head, body = self.shown()
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _title(name: str) -> str:
    """The name of a column as people read it; F_mem keeps its own."""
    return re.sub(r"\b[fF] mem\b", "F_mem", name.replace("_", " "))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shown(cell: Cell, *, share: bool, digits: int = 4) -> str:
    if cell is None or cell == "":
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Estimate):
        value, low, high = (_number(number, share=share, digits=digits) for number in (cell.value, cell.low, cell.high))
        unit = " %" if share else ""
        return f"{value}{unit}" if math.isnan(cell.low) else f"{value} ({low} to {high}){unit}"
    if share:
        return f"{_number(cell, share=True)} %" if math.isfinite(cell) else "–"
    return f"{cell:,}" if isinstance(cell, Integral) else short(cell, digits)


def _number(value: float, *, share: bool, digits: int = 3) -> str:
    if not share or not math.isfinite(value):
        return short(value, min(digits, 3))
    return f"{100 * value:.1f}"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure with what is seen in it, for those who do not see it, and a caption."""

    figure: Figure
    alt: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a study found.

    Attributes:
        title: what was studied, and of what.
        says: what follows, in plain sentences, the most important first.
        table: of the figures.
        protocol: all that the figures depend on, as plain types.
        more: further tables by the name of their file.
        pictures: by the name of their file.
        space: what samples are, which says what energies are sums over.
    """

    title: str
    says: Sequence[str]
    table: Table
    protocol: Mapping[str, Any]
    more: Mapping[str, Table] = field(default_factory=dict)
    pictures: Mapping[str, Shown] = field(default_factory=dict)
    space: str | None = None


def attempt(row: Mapping[str, Cell], make: Any) -> dict[str, Cell]:
    """Add the cells that `make()` returns to a row; where it raises a KineticError, the row says that instead."""
    try:
        return {**row, **make()}
    except ValueError as error:  # KineticError is one
        return {**row, NOTE: " ".join(str(error).split())}


def write_findings(folder: Path, findings: Findings) -> Path:
    """Write table.csv, table.md, further tables, pictures, study.json and report.html; returns the page's path."""
    for name, one in {"table": findings.table, **findings.more}.items():
        columns = one.columns()
        beside = {f"protocol_{key}": [value] * len(one.rows) for key, value in _flat(findings.protocol).items()}
        write_columns(folder / f"{name}.csv", {**columns, **beside})
    with energies_of(findings.space):
        for name, picture in findings.pictures.items():
            save(picture.figure, folder / f"{name}.png")
        page = _page(findings)
    write_text(folder / "table.md", _markdown(findings))
    write_text(folder / "study.json", json.dumps(_plain(findings), indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _flat(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol as one text a name."""
    return {
        name: value if isinstance(value, str | int) else json.dumps(value, ensure_ascii=False)
        for name, value in protocol.items()
    }


def _plain(findings: Findings) -> dict[str, Any]:
    """All but the pictures, as plain types."""

    def cell(value: Any) -> Any:
        if isinstance(value, Integral):
            return int(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    tables = {
        name: {column: [cell(value) for value in values] for column, values in one.columns().items()}
        for name, one in {"table": findings.table, **findings.more}.items()
    }
    return {"title": findings.title, "says": list(findings.says), "protocol": dict(findings.protocol), **tables}


def _markdown(findings: Findings) -> str:
    parts = [f"# {findings.title}", *findings.says]
    for one in (findings.table, *findings.more.values()):
        parts += [one.caption, one.markdown()] if one.caption else [one.markdown()]
    lines = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in _flat(findings.protocol).items())
    return "\n\n".join([*parts, "Protocol:", lines]) + "\n"


def _page(findings: Findings) -> str:
    def found() -> str:
        said = [paragraph(text, "" if i else "lead") for i, text in enumerate(findings.says)]
        return "".join(said) + table(*findings.table.shown(), findings.table.caption)

    def pictures() -> str:
        return "".join(chart(p.figure, name, p.alt, p.caption) for name, p in findings.pictures.items())

    def more() -> str:
        return "".join(table(*one.shown(), one.caption) for one in findings.more.values())

    def protocol() -> str:
        rows = [[name.replace("_", " "), str(value)] for name, value in _flat(findings.protocol).items()]
        return table(["", "value"], rows, "All that these figures depend on.")

    sections = [Section("found", "What was found", found)]
    sections += [Section("pictures", "Pictures", pictures)] if findings.pictures else []
    sections += [Section("more", "In detail", more)] if findings.more else []
    return render(findings.title, "A study by Kinetic", [*sections, Section("protocol", "Protocol", protocol)])
