"""The house rule: a file imports only from layers below it."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

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


def modules() -> dict[str, Path]:
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


@pytest.mark.parametrize("module", sorted(set(modules()) - {"kinetic"}))
def test_module_has_a_floor_and_imports_only_from_below(module):
    room = home(module)
    assert room is not None, f"{module} has no floor: add it to FLOORS"
    for name in imports(modules()[module], module):
        other = home(name)
        if other is None or other == room:
            continue
        assert LAYERS[other] < LAYERS[room], f"{module} (floor {LAYERS[room]}) imports {name} (floor {LAYERS[other]})"


def test_no_circle_of_imports():
    known = modules()
    graph = {
        m: {n for n in imports(p, m) if n in known and n != m} for m, p in known.items() if p.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_two_files_import_torchdiffeq_and_two_import_timm():
    users = {m: imports(p, m) for m, p in modules().items()}
    assert {m for m, names in users.items() if any(n.startswith("torchdiffeq") for n in names)} == {
        "kinetic.flow.adaptive",
        "kinetic.flow.solvers",
    }
    assert {m for m, names in users.items() if any(n.split(".")[0] == "timm" for n in names)} == {
        "kinetic.metrics.networks",
        "kinetic.nn.dit",
    }


def test_nothing_imports_the_folder_callbacks_by_its_own_name():
    for module, path in modules().items():
        assert not any(name.split(".")[0] == "callbacks" for name in imports(path, module)), module


def test_import_kinetic_stays_light():
    heavy = ("lightning", "wandb", "matplotlib", "timm", "diffusers", "transformers")
    code = f"import kinetic, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"


def test_what_is_imported_is_declared():
    """Kills: a dependency that only the development group, or another package, happens to bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {re.split(r"[\[<>=! ]", one)[0].lower().replace("_", "-") for one in wanted}
    owners = packages_distributions()
    for path in [*(ROOT / "kinetic").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"kinetic"}:
                found = {owner.lower().replace("_", "-") for owner in owners.get(name, [name])}
                assert found & declared, f"{path.relative_to(ROOT)} imports {name}, of {found}"
