"""Pages of the Python interface: one a room of the house, filled from docstrings by mkdocstrings."""

import ast
import inspect
import re
from pathlib import Path

import kinetic
import kinetic.callbacks as callbacks
import kinetic.data as data
import kinetic.nn as nn
from docs.making.house import ROOMS, modules, purpose

PACKAGE = Path(kinetic.__file__).parent
REFERENCE = re.compile(r"\]\[(kinetic\.[\w.]+)\]")
GROUND = "the ground"  # single modules that everything stands on
NAMED_IN_CONFIGURATIONS = (("Networks", nn), ("Data sets", data), ("Callbacks", callbacks))


def names() -> list[tuple[str, str]]:
    """The title and the name of the file of each page."""
    rooms = [room for room in ROOMS if (PACKAGE / room.partition(".")[2]).is_dir() or room == "kinetic.callbacks"]
    return [("kinetic", "index.md"), (GROUND, "ground.md"), *((room, f"{room.partition('.')[2]}.md") for room in rooms)]


def pages() -> dict[str, str]:
    """The Markdown of each page, by the name of its file."""
    made = {"kinetic": _front, GROUND: _ground}
    return {file: made[title]() if title in made else _room(title) for title, file in names()}


def with_places(page: str) -> str:
    """Let references by the names that people import (`kinetic.callbacks.KPECallback`) lead to where these lie."""
    known = {f"kinetic.{name}": f"{place}.{name}" for name, place in kinetic.PLACES.items()}
    known |= {f"kinetic.callbacks.{name}": _source(getattr(callbacks, name)) for name in callbacks.__all__}
    return REFERENCE.sub(lambda found: f"][{known.get(found.group(1), found.group(1))}]", page)


def classes() -> str:
    """The page of the classes that a configuration can name by `class_path`, with all their arguments."""
    lines = [
        "# What a configuration can name",
        "",
        "A configuration names a class by its `class_path` and gives its arguments as `init_args`; on the command line "
        "`--network.class_path kinetic.nn.UNet --network.init_args.dropout 0.1` does the same. Beside these stand "
        "torch's optimisers and schedules (`torch.optim.AdamW`, `torch.optim.lr_scheduler.CosineAnnealingLR`).",
        "",
    ]
    for title, package in NAMED_IN_CONFIGURATIONS:
        lines += [f"## {title}", ""]
        for name in package.__all__:
            if inspect.isclass(getattr(package, name)):
                lines += [*_block(_source(getattr(package, name)), members=False), ""]
    return "\n".join(lines)


def _front() -> str:
    lines = ["# kinetic", "", inspect.cleandoc(kinetic.__doc__ or ""), ""]
    for name in kinetic.__all__:
        place = kinetic.PLACES.get(name, "kinetic.errors")
        lines += [*_block(f"{place}.{name}"), ""]
    return "\n".join(lines)


def _room(room: str) -> str:
    """A room's page: each module with something public, in alphabetical order."""
    lines = [f"# {room}", "", purpose(room), ""]
    for module, path in sorted(modules().items()):
        if module.startswith(f"{room}.") and _public(path):
            lines += [f"## {module}", "", *_block(_place(module), root=False), ""]
    return "\n".join(lines)


def _ground() -> str:
    """The page of the modules that are no room of their own."""
    lines = ["# The ground", "", "Single modules of `kinetic` that everything else stands on.", ""]
    for room in sorted(ROOMS):
        if modules()[room].name != "__init__.py" and _public(modules()[room]):
            lines += [f"## {room}", "", *_block(room, root=False), ""]
    return "\n".join(lines)


def _block(place: str, *, root: bool = True, members: bool = True) -> list[str]:
    """What mkdocstrings replaces by the docstrings of what lies at `place`."""
    options = [f"show_root_heading: {str(root).lower()}", f"show_root_toc_entry: {str(root).lower()}"]
    options += [] if members else ["members: false", "heading_level: 3"]
    return [f"::: {place}", "    options:", *(f"      {line}" for line in options)]


def _source(found: type) -> str:
    return _place(f"{found.__module__}.{found.__qualname__}")


def _place(name: str) -> str:
    """Where a name is read: the folder `callbacks` is installed as `kinetic.callbacks`."""
    return name.removeprefix("kinetic.") if name.startswith("kinetic.callbacks.") else name


def _public(path: Path) -> bool:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in ast.parse(path.read_text()).body)
