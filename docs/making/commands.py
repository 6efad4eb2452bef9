"""What the pages tell people to type: every line of every fence, and why some of them cannot be run anywhere.

`uv run python -m docs.making.commands FOLDER [PAGE ...]` types them in FOLDER, which has the runs that pages speak of,
page by page, and prints what each took; fences marked as taking minutes too with --long.
"""

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.making.house import ROOT

FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?(?P<space> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=space)```$", re.M | re.S
)
LONG = "takes "  # a mark that begins so: over a minute on two cores
SAVED = "saved as "  # the file that a reader is told to write


@dataclass(frozen=True)
class Fence:
    """A block of a page that is code, with the remark before it, which is no part of the page that is shown.

    Attributes:
        page: where it stands.
        mark: "", "takes 7 min", "needs four GPUs", "saved as mine.py".
    """

    page: Path
    language: str
    mark: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is for any machine, and for less than a minute."""
        return not self.mark or self.mark.startswith(SAVED)

    def lines(self) -> list[str]:
        """The commands, one a line, without comments."""
        found = (re.sub(r"(^|\s+)# .*$", "", line).strip() for line in self.text.split("\n"))
        return [line for line in found if line]


def pages() -> list[Path]:
    """Every page that people read, written by hand."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").rglob("*.md"))]


def fences(page: Path, language: str | None = None) -> list[Fence]:
    """The fences of a page, or those of one language."""
    found = [
        Fence(page, match["language"], match["mark"] or "", re.sub(f"^{match['space']}", "", match["text"], flags=re.M))
        for match in FENCE.finditer(page.read_text())
    ]
    return [fence for fence in found if language in (None, fence.language)]


def arguments(line: str) -> list[str] | None:
    """What `kinetic` is given by a line that runs one of its commands; None of other lines."""
    words = shlex.split(line, comments=True)
    if words[:2] != ["uv", "run"]:
        return None
    words = words[2:]
    if words[:1] in (["train.py"], ["sample.py"]):
        return [words[0].removesuffix(".py"), *words[1:]]
    return words[1:] if words[:1] == ["kinetic"] else None


def main() -> int:
    """Type the commands of the pages that are named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    wrong = 0
    for page in options.pages or pages():
        for fence in fences(page):
            if fence.mark.startswith(SAVED):
                (options.folder / fence.mark.removeprefix(SAVED)).write_text(fence.text)
            if fence.language != "bash" or not (fence.runs or (options.long and fence.mark.startswith(LONG))):
                continue
            for line in fence.lines():
                wrong += _typed(line, options.folder, page.name)
    return min(wrong, 1)


def _typed(line: str, folder: Path, page: str) -> bool:
    """Run a line, say how that went, and return whether it went wrong."""
    given = arguments(line)
    command: Sequence[str] = ["bash", "-c", line] if given is None else [sys.executable, "-m", "kinetic", *given]
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = "" if done.returncode == 0 else f"\n    {(done.stderr or done.stdout).strip()[-400:]}"
    print(f"{page:28} {time.monotonic() - began:6.1f} s  {done.returncode}  {line}{said}", flush=True)
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
