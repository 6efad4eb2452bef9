"""The studies of a run, as its report lists them."""

from pathlib import Path
from typing import Any

from kinetic.report.page import Section, link, paragraph
from kinetic.report.sources import Unavailable, read_json

FOLDER = "studies"  # of a run
FILE = "study.json"
LISTED = 30
SENTENCE = 400  # characters that are shown


def studies_section(run: Path) -> tuple[Section, ...]:
    """A section with what each study found and the way to its page; none where there are no studies."""
    found = sorted(path.parent for path in run.glob(f"{FOLDER}/*/{FILE}"))[:LISTED]
    return (Section("studies", "Studies", lambda: "".join(map(_study, found))),) if found else ()


def _study(folder: Path) -> str:
    try:
        said = _sentence(read_json(folder / FILE))
    except Unavailable as reason:
        said = str(reason)
    return f"<h3>{link(folder.name, f'{FOLDER}/{folder.name}/report.html')}</h3>\n{paragraph(said)}"


def _sentence(found: dict[str, Any]) -> str:
    """The first sentence of what a study says."""
    says = found.get("says")
    first = says[0] if isinstance(says, list) and says else "It says nothing."
    return str(first)[:SENTENCE]
