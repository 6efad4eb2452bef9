"""Notebooks: run anew, kept with their pictures, and turned into pages.

`uv run --extra docs python -m docs.making.notebooks` runs all of them and keeps what they show; with `--check` it runs
copies in a folder of their own and fails where a cell fails, or no longer shows a picture that the kept notebook has.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parent.parent / "notebooks"
LIMIT = 600  # seconds a cell


def run(path: Path, folder: Path) -> Any:
    """Run a notebook in `folder`; a cell that fails raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=LIMIT, kernel_name="python3", resources=place).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # times of execution
        if cell.cell_type == "code":
            cell.outputs = _joined([output for output in cell.outputs if _kept(output)])
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def pictures(notebook: Any) -> list[bool]:
    """Which cells show a picture."""
    return [any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])) for cell in notebook.cells]


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A kept notebook as Markdown, and its pictures by the names that it has for them."""
    text, resources = MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4))
    named = {name: f"{path.stem}-{name}" for name in resources.get("outputs", {})}
    for name, new in named.items():
        text = text.replace(f"]({name})", f"]({new})")
    return text, {named[name]: data for name, data in resources.get("outputs", {}).items()}


def _joined(outputs: list[Any]) -> list[Any]:
    """Put what was printed in pieces together."""
    found: list[Any] = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def titles() -> list[tuple[str, str]]:
    """The name of each notebook, and its title."""
    return [(path.stem, _title(path)) for path in _chosen([])]


def _title(path: Path) -> str:
    return str(nbformat.read(path, as_version=4).cells[0].source.split("\n")[0].removeprefix("# "))


def _kept(output: Any) -> bool:
    """Leave out what is written to standard error: progress bars and warnings."""
    return not (output.output_type == "stream" and output.name == "stderr")


def _chosen(names: list[str]) -> Iterator[Path]:
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            yield path


def main() -> int:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for path in _chosen(options.names):
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = run(path, Path(folder))
            except CellExecutionError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                return 1
        before, after = pictures(nbformat.read(path, as_version=4)), pictures(made)
        if options.check and before != after:
            print(f"{path.name}: the cells that show pictures are others than those kept", file=sys.stderr)
            return 1
        if not options.check:
            nbformat.write(made, path)
        print(f"{path.name}: {len(made.cells)} cells, {sum(after)} with pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
