"""What mkdocs asks for on the way: pages made from the code, formulas, the notebooks."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # mkdocs reads this file by its path

from docs.making import api, layers, mathematics, notebooks, options, results  # noqa: E402

PLACE = re.compile(r"<!-- put: (\w+) -->")  # where a page takes what the code says
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+|<link\b[^>]*stylesheet[^>]*//[^>]+"""
)
UNKNOWN = re.compile(r"\]\[((?:kinetic|callbacks)[\w.]*)\]")  # a name of the API that no page has
PUT = {"layers": layers.picture, "rooms": layers.rooms}


def on_config(config: Any) -> Any:
    """List the pages that are made among those that are written."""
    commands = ["reference/commands/index.md", *(f"reference/commands/{name}" for name in options.names())]
    rooms = [{title: f"reference/api/{name}"} for title, name in api.names()]
    books = [{title: f"notebooks/{stem}.md"} for stem, title in notebooks.titles()]
    reference = [{"Commands": commands}, {"Classes of a configuration": "reference/classes.md"}, {"Python": rooms}]
    found = [{title: f"results/{file}"} for title, file in results.names()]
    for entry in config["nav"]:
        if "Reference" in entry:
            entry["Reference"] = [*entry["Reference"], *reference]
        if "Results" in entry:
            entry["Results"] = ["results/index.md", *found, *entry["Results"]]
        if "Notebooks" in entry:
            entry["Notebooks"] = [*entry["Notebooks"], *books]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, the pictures of the notebooks and the font of formulas."""
    for place, content in _made():
        files.append(File.generated(config, place, content=content))
    return files


def _made() -> Iterator[tuple[str, str | bytes]]:
    yield from ((f"reference/commands/{name}", text) for name, text in options.pages().items())
    yield from ((f"reference/api/{name}", text) for name, text in api.pages().items())
    yield from ((f"results/{name}", text) for name, text in results.pages().items())
    yield "reference/classes.md", api.classes()
    yield "stylesheets/STIXTwoMath.woff", mathematics.font()
    for stem, _ in notebooks.titles():
        text, pictures = notebooks.page(notebooks.FOLDER / f"{stem}.ipynb")
        yield f"notebooks/{stem}.md", text
        yield from ((f"notebooks/{name}", data) for name, data in pictures.items())


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in what a page asks for by name."""
    return api.with_places(PLACE.sub(lambda found: PUT[found.group(1)](), markdown))


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Set the formulas; one that cannot be read stops the build."""
    try:
        return mathematics.with_formulas(html, name=page.file.src_uri)
    except ValueError as error:
        raise PluginError(str(error)) from None


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would fetch anything, as pages are read without a network, or that names what is not there."""
    found = ELSEWHERE.search(output)
    if found is not None:
        raise PluginError(f"{page.file.src_uri} fetches from elsewhere: {found.group(0)}")
    unknown = UNKNOWN.search(output)
    if unknown is not None:
        raise PluginError(f"{page.file.src_uri} refers to {unknown.group(1)}, which no page of the API has")
    return output
