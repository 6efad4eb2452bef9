"""The house rule: a file imports only from layers below it."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions

import pytest

from docs.making.house import LAYERS, ROOT, home, imports, modules


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
