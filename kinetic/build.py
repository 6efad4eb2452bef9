"""Objects from plain configurations: {"class_path": "kinetic.nn.UNet", "init_args": {...}}."""

import importlib
import inspect
from typing import Any

from kinetic.errors import KineticError, refusing
from kinetic.trust import Trust

ClassConfig = dict[str, Any]


def import_class(class_path: str, *, base: type, home: str, trust: Trust) -> type:
    """Import the class at `class_path`, which derives from `base` and lies in `home` or in what is trusted.

    A checkpoint names the class of its network, so a name from elsewhere is refused before anything is imported; a
    name by which a trusted module knows a class of another one is refused as well.
    """
    module, _, name = str(class_path).rpartition(".")
    _check_allowed(str(class_path), home, trust)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise KineticError(f"class {class_path!r} cannot be imported: {error}") from None
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise KineticError(f"{class_path!r} is not a {base.__name__}")
    _check_allowed(f"{found.__module__}.{found.__qualname__}", home, trust)
    return found


def _check_allowed(path: str, home: str, trust: Trust) -> None:
    if trust.allows_class(path, home):
        return
    trusted = f" and the trusted {', '.join(trust.packages)}" if trust.packages else ""
    raise KineticError(
        f"class {path!r} lies outside {home}{trusted}; if it is yours, pass --trust {path.split('.')[0]}"
    )


def as_config(named: "str | ClassConfig") -> ClassConfig:
    """Take a class by its path alone, or with its arguments."""
    return {"class_path": named} if isinstance(named, str) else named


def build(config: ClassConfig, *args: Any, base: type, home: str, trust: Trust) -> Any:
    """Make the object that `config` describes; `args` go before its `init_args`. The rest is as in `import_class`."""
    if not isinstance(config, dict) or set(config) - {"class_path", "init_args"} or "class_path" not in config:
        got = sorted(map(str, config)) if isinstance(config, dict) else f"a {type(config).__name__}"
        raise KineticError(f"expected the keys class_path and init_args, got {got}")
    target = import_class(config["class_path"], base=base, home=home, trust=trust)
    init_args = config.get("init_args") or {}
    if not isinstance(init_args, dict):
        raise KineticError(f"init_args of {config['class_path']} must be names with values, got {init_args!r:.80}")
    try:
        inspect.signature(target).bind(*args, **init_args)
    except TypeError as error:
        raise KineticError(f"{config['class_path']}: {error}") from None
    with refusing(config["class_path"]):
        return target(*args, **init_args)
