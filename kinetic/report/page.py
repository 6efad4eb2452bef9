"""The HTML of a report: one file with its styles, figures and script inside, that loads nothing from anywhere."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from matplotlib.figure import Figure

from kinetic.plots import THEME_CSS, themed_svg
from kinetic.report.assets import CSS, SCRIPT
from kinetic.report.sources import Picture, Unavailable
from kinetic.units import energy_sum

ROWS, CELL = 1000, 120  # of a table: rows, and characters of a cell


@dataclass(frozen=True)
class Section:
    """One headed part of the page; `build` returns its HTML or raises `Unavailable`."""

    anchor: str
    title: str
    build: Callable[[], str]


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Make the whole page. `title` and `subtitle` are plain text; a section that is unavailable says why."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = "".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{THEME_CSS}{CSS}</style>\n'
        f'</head>\n<body>\n<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p></header>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{"".join(map(_section, sections))}</main>\n'
        '<footer class="soft">Made by Kinetic. Energy is ½∫‖v‖²dt along the sampling path, '
        f"{energy_sum()}.</footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    try:
        body = section.build()
    except Unavailable as reason:
        body = f'<p class="missing">Left out: {escape(str(reason))}</p>'
    except Exception as error:  # whatever a damaged file leads to, the other sections are worth having
        said = " ".join(str(error).split())[:300]
        body = f'<p class="missing">Left out: it could not be made ({type(error).__name__}: {escape(said)}).</p>'
    heading = f'<h2 id="{section.anchor}-title">{escape(section.title)}</h2>'
    return f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">{heading}\n{body}</section>\n'


def chart(figure: Figure, name: str, alt: str, caption: str = "") -> str:
    """Put a figure inline as SVG in the page's colours; `name` is unique on the page, `alt` says what is seen."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    svg = themed_svg(figure, name)
    return f'<figure><div class="wide" role="img" aria-label="{escape(alt)}">{svg}</div>{below}</figure>\n'


def picture(image: Picture, alt: str, caption: str = "", *, card: bool = False) -> str:
    """Put an image inline; `card` gives it a white ground, for figures drawn in dark ink."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    size = f'width="{image.width}" height="{image.height}"' + (' class="card"' if card else "")
    name = f"step {image.step:,}" if image.step >= 0 else image.name
    tag = f'<img src="{image.uri}" alt="{escape(alt)}" {size}>'
    return f'<figure data-name="{escape(name)}">{tag}{below}</figure>\n'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, marked: int | None = None) -> str:
    """Make a table of plain-text cells; the first of each row is its header, row number `marked` stands out."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = ""
    for i, (first, *rest) in enumerate(rows[:ROWS]):
        cells = f'<th scope="row">{_cell(first)}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in rest)
        body += f'<tr class="mark">{cells}</tr>' if i == marked else f"<tr>{cells}</tr>"
    if len(rows) > ROWS:
        caption = f"{caption} {len(rows) - ROWS:,} more rows are left out.".strip()
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _cell(text: str) -> str:
    return escape(text if len(text) <= CELL else f"{text[:CELL]}…")


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """Make a row of large figures: (name, value, remark)."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in items
    )
    return f'<dl class="tiles">{cells}</dl>\n'


def paragraph(text: str, kind: str = "") -> str:
    """Make a paragraph of plain text; parts between backticks become code."""
    parts = escape(text).split("`")
    inner = "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
    return f'<p class="{kind}">{inner}</p>\n' if kind else f"<p>{inner}</p>\n"


def link(text: str, path: str) -> str:
    """Make a link to a file beside the page."""
    return f'<a href="{escape(quote(path))}">{escape(text)}</a>'
