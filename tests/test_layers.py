"""The house rule: a file imports only from layers below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Layer of each module, and of each package whose modules all live on one floor.
LAYERS: dict[str, float] = {
    "kinetic.tensors": 0,
    "kinetic.files": 0,
    "kinetic.build": 0,
    "kinetic.runs": 0,
    "kinetic.paths": 1,
    "kinetic.couplings": 1,
    "kinetic.times": 1,
    "kinetic.energy": 1,
    "kinetic.shaping": 1,
    "kinetic.guidance": 1,
    "kinetic.averaging": 1,
    "kinetic.optimizers": 1,
    "kinetic.nn": 1,
    "kinetic.metrics.neighbors": 1.5,  # searches a reference
    "kinetic.metrics.reference": 1,
    "kinetic.metrics.signals": 1,
    "kinetic.data.pixels": 1,
    "kinetic.integrate": 2,
    "kinetic.empirical": 2,
    "kinetic.metrics.memorization": 2,
    "kinetic.plots": 2,
    "kinetic.sampling": 3,
    "kinetic.seeds": 3,
    "kinetic.checkpoint": 3,
    "kinetic.data": 3,
    "kinetic.report": 3,
    "kinetic.outputs": 3,
    "kinetic.module": 4,
    "kinetic.predict": 4,
    "kinetic.checkpoint_io": 4,
    "kinetic.loggers": 4,
    "kinetic.callbacks": 5,
    "kinetic.cli": 6,
    "kinetic.__main__": 7,
}
PACKAGES = {"kinetic.nn", "kinetic.plots", "kinetic.data", "kinetic.report", "kinetic.callbacks", "kinetic.cli"}


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


@pytest.mark.parametrize("module", sorted(set(modules()) - {"kinetic", "kinetic.metrics"}))
def test_module_has_a_layer_and_imports_only_from_below(module):
    floor = home(module)
    assert floor is not None, f"{module} has no layer: add it to LAYERS"
    for name in imports(modules()[module], module):
        other = home(name)
        if other is None or name == module:
            continue
        if other == floor and (floor in PACKAGES or name == floor):
            continue
        assert LAYERS[other] < LAYERS[floor], f"{module} (layer {LAYERS[floor]}) imports {name} (layer {LAYERS[other]})"


def test_only_integrate_imports_torchdiffeq_and_only_dit_timm():
    users = {m: imports(p, m) for m, p in modules().items()}
    assert [m for m, names in users.items() if "torchdiffeq" in names] == ["kinetic.integrate"]
    assert [m for m, names in users.items() if any(n.split(".")[0] == "timm" for n in names)] == ["kinetic.nn.dit"]


def test_nothing_imports_the_folder_callbacks_by_its_own_name():
    for module, path in modules().items():
        assert not any(name.split(".")[0] == "callbacks" for name in imports(path, module)), module


def test_import_kinetic_stays_light():
    code = "import kinetic, sys; print([m for m in ('lightning', 'wandb', 'matplotlib', 'timm') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
