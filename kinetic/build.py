"""Objects from plain configurations: {"class_path": "kinetic.nn.UNet", "init_args": {...}}."""

import importlib
import inspect
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
    _check_kinds(target, init_args, config["class_path"])
    with refusing(config["class_path"]):
        return target(*args, **init_args)


def _check_kinds(target: type, init_args: dict[str, Any], path: str) -> None:
    """Raise KineticError where an argument of a class of ours is of another kind than the class says."""
    if not target.__module__.startswith("kinetic."):
        return
    hints = get_type_hints(target.__init__)  # type: ignore[misc]
    for name, value in init_args.items():
        if name in hints and not _fits(value, hints[name]):
            wanted = getattr(hints[name], "__name__", None) if isinstance(hints[name], type) else str(hints[name])
            raise KineticError(f"{path}: {name} should be {wanted}, and is {value!r:.80}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the kind that an annotation says; True where the annotation is no plain one."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple, Sequence):
        element = inner[0] if inner and origin is not tuple else Any
        return isinstance(value, list | tuple) and all(_fits(one, element) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint not in (bool, str, NoneType) or isinstance(value, hint)
