"""RESULTS.md as pages: one a section, and a front page with its opening words."""

import re

from docs.making.house import ROOT

FILE = ROOT / "RESULTS.md"


def names() -> list[tuple[str, str]]:
    """The title and the name of the file of each section."""
    return [(title, f"{_slug(title)}.md") for title, _ in _sections()]


def pages() -> dict[str, str]:
    """The Markdown of each page, by the name of its file."""
    opening = FILE.read_text().split("\n## ", 1)[0].strip()
    listed = "\n".join(f"- [{title}]({file})" for title, file in names())
    front = f"{opening}\n\n## What was measured\n\n{listed}\n- [Speed](speed.md)\n"
    return {"index.md": front, **{f"{_slug(title)}.md": f"# {title}\n{text}" for title, text in _sections()}}


def _sections() -> list[tuple[str, str]]:
    parts = FILE.read_text().split("\n## ")[1:]
    return [(title, text) for title, _, text in (part.partition("\n") for part in parts)]


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")
