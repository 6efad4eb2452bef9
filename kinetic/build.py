"""Objects from plain configurations: {"class_path": "kinetic.nn.UNet", "init_args": {...}}."""

import importlib
import inspect
from typing import Any

from kinetic.errors import KineticError, refusing

ClassConfig = dict[str, Any]


def import_class(class_path: str, *, base: type, packages: tuple[str, ...]) -> type:
    """Import the class at `class_path`, which must lie in one of `packages` and derive from `base`.

    A checkpoint names the class of its network, so a name from outside the trusted packages is refused before
    anything is imported.
    """
    module, _, name = class_path.rpartition(".")
    if module.split(".")[0] not in packages:
        raise KineticError(
            f"class {class_path!r} lies outside the trusted packages {', '.join(packages)}; "
            f"if it is yours, pass --trust {class_path.split('.')[0]}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise KineticError(f"class {class_path!r} cannot be imported: {error}") from None
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise KineticError(f"{class_path!r} is not a {base.__name__}")
    return found


def as_config(named: "str | ClassConfig") -> ClassConfig:
    """Take a class by its path alone, or with its arguments."""
    return {"class_path": named} if isinstance(named, str) else named


def build(config: ClassConfig, *args: Any, base: type, packages: tuple[str, ...]) -> Any:
    """Make the object that `config` describes; `args` go before its `init_args`."""
    if set(config) - {"class_path", "init_args"} or "class_path" not in config:
        raise KineticError(f"expected the keys class_path and init_args, got {sorted(config)}")
    target = import_class(config["class_path"], base=base, packages=packages)
    init_args = config.get("init_args") or {}
    try:
        inspect.signature(target).bind(*args, **init_args)
    except TypeError as error:
        raise KineticError(f"{config['class_path']}: {error}") from None
    with refusing(config["class_path"]):
        return target(*args, **init_args)


def build_trusted(config: ClassConfig, *args: Any, base: type) -> Any:
    """Build from the user's own configuration, which may name the user's own classes."""
    return build(config, *args, base=base, packages=(str(config.get("class_path", "")).split(".")[0],))
