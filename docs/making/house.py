"""The house as its code has it: rooms, the floors that they stand on, and who imports whom."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# From the ground up: the files of a floor import from floors below, and freely on their own without a circle.
FLOORS = (
    ("kinetic.errors", "kinetic.trust", "kinetic.advice", "kinetic.units"),
    ("kinetic.tensors", "kinetic.build", "kinetic.text", "kinetic.ranks"),
    ("kinetic.images",),
    ("kinetic.store",),
    ("kinetic.nn", "kinetic.plots"),
    ("kinetic.flow",),
    ("kinetic.data",),
    ("kinetic.metrics",),
    ("kinetic.models",),
    ("kinetic.memorization",),
    ("kinetic.samples",),
    ("kinetic.report",),
    ("kinetic.training",),
    ("kinetic.callbacks",),
    ("kinetic.studies",),
    ("kinetic.cli",),
    ("kinetic.__main__",),
)
LAYERS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = tuple(LAYERS)


def modules() -> dict[str, Path]:
    """Every module of the package and where it lies."""
    found = {}
    for top, prefix in ((ROOT / "kinetic", "kinetic"), (ROOT / "callbacks", "kinetic.callbacks")):
        for path in top.rglob("*.py"):
            parts = [prefix, *path.relative_to(top).with_suffix("").parts]
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


def home(module: str) -> str | None:
    """The longest entry of LAYERS that `module` is or lies in."""
    fits = [name for name in LAYERS if module == name or module.startswith(name + ".")]
    return max(fits, key=len, default=None)


def imports(path: Path, module: str) -> set[str]:
    """All names that a file imports, wherever in it."""
    found = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            name = ".".join(filter(None, [base, node.module or ""]))
            found |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    return found


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    text = ast.get_docstring(ast.parse(modules()[room].read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def users() -> Counter[tuple[str, str]]:
    """How many modules of one room import from another, by (user, used)."""
    known, found = modules(), Counter[tuple[str, str]]()
    for module, path in known.items():
        room = home(module)
        used = {home(name) for name in imports(path, module) if name in known or name.rpartition(".")[0] in known}
        for other in used - {None, room}:
            if room is not None and other is not None:
                found[room, other] += 1
    return found
