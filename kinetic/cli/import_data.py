"""The training set of an imported network, as it is typed: a name, a folder, shards, a recipe, or a class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinetic.build import ClassConfig, build
from kinetic.data import FlowDataModule
from kinetic.data.naming import named_data
from kinetic.data.opening import HOME
from kinetic.data.vision import MISSING
from kinetic.errors import KineticError
from kinetic.store.plain import parse_yaml, read_yaml
from kinetic.trust import OWN

DATA = "digits, cifar10, ..., a folder, shards, a recipe (.yaml), or {class_path: ...}"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Data:
    """A training set that is open.

    Attributes:
        config: class and arguments, as a run's config.yaml names it.
        module: opened.
        note: what was assumed, for people.
    """

    config: ClassConfig
    module: FlowDataModule
    note: str = ""


def open_named(spec: str, *, root: str, shape: tuple[int, ...], pictures: bool, flip: bool | None) -> Data:
    """Open what was typed; KineticError unless it has the shape of the network's samples.

    A recipe or a class says itself how large its pictures are, whether they are mirrored, and what is held out. Others
    are brought to `shape` where the network makes `pictures`, which are mirrored as `flip` says; None is for all but
    digits. None of them are held out, unless there is a test split: the network may have been trained on all.
    """
    if spec.lstrip().startswith("{") or spec.endswith(SUFFIXES):
        return _opened(_written(spec), shape)
    common: dict[str, Any] = {"size": shape[1], "grayscale": shape[0] == 1} if pictures else {}
    mirrored = (pictures and spec != "digits") if flip is None else flip
    config = named_data(spec, root=root, option="--data", **common, flip=mirrored, num_val=0)
    return _opened(config, shape, " and their mirror images (--no-flip)" if mirrored and flip is None else "")


def _written(spec: str) -> ClassConfig:
    """The data of a recipe, or the class that was typed."""
    recipe = spec.endswith(SUFFIXES)
    found = read_yaml(Path(spec)) if recipe else parse_yaml(spec, name="--data")
    config = found.get("data") if recipe and isinstance(found, dict) else found
    if not isinstance(config, dict):
        raise KineticError(f"--data {spec:.80}: a recipe needs a section data with a class_path")
    return config


def _opened(config: ClassConfig, shape: tuple[int, ...], note: str = "") -> Data:
    module: FlowDataModule = build(config, base=FlowDataModule, home=HOME, trust=OWN)
    try:
        module.setup()
    except KineticError as error:
        raise KineticError(str(error).replace(MISSING, "pass --data-root FOLDER, which has it")) from None
    if tuple(module.shape) != shape:
        raise KineticError(f"--data has samples of shape {tuple(module.shape)}, but the network makes {shape}")
    held = f"{module.num_held_out:,} others held out" if module.num_held_out else "none held out"
    return Data(config, module, f"{note}, {held}")
