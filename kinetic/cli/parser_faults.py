"""What the parser of configurations complains about, in one line: which option, what it takes, what it got."""

import difflib
import inspect
import re
import sys
from collections.abc import Sequence

from kinetic.cli.interface import ADVICE, unknown_option
from kinetic.cli.options import KINDS
from kinetic.errors import KineticError
from kinetic.trust import Trust

CLASS = re.compile(r"Problem with given class_path '([^']*)'")
KEY = re.compile(r'Parser key "([^"]+)"')
LONGEST = 80  # characters of a value that are shown


def fault(message: str, *, args: Sequence[str], options: Sequence[str], trust: Trust) -> KineticError:
    """Turn the parser's message to a fault that names an option as it was typed in `args`.

    `options` are all that the parser knows by name, `trust` is what a configuration may import.
    """
    name = _typed(_key(message), args)
    unknown = _unknown(message, options)
    if unknown is not None:
        return KineticError(unknown)
    line = (
        _import(message, name, trust)
        or _not_of_class(message, name)
        or _missing(message)
        or _value(message, name)
        or f"{name}: {' '.join(KEY.sub('', message).split(':', 1)[-1].split())}".removeprefix(": ")
    )
    return KineticError(f"{line}; {ADVICE['train']}")


def _key(message: str) -> str:
    """The whole path of the option that is at fault."""
    return ".init_args.".join(KEY.findall(message))


def _typed(key: str, args: Sequence[str]) -> str:
    """An option as it was typed, which may leave out `init_args`; else its whole path."""
    short = key.replace(".init_args.", ".")
    for arg in args:
        typed = arg.partition("=")[0].removeprefix("--").rstrip("+")
        if arg.startswith("--") and typed in (key, short):
            return f"--{typed}"
    return f"--{key}" if key else ""


def _import(message: str, name: str, trust: Trust) -> str | None:
    denied = re.search(r"Importing '([^']+)' is not allowed", message)
    if denied:
        root = denied[1].split(".")[0]
        allowed = ", ".join(dict.fromkeys(("kinetic", "torch.optim", *trust.packages)))
        return f"{name}: {denied[1]} is not imported, only what lies in {allowed}; if it is yours, pass --trust {root}"
    absent = re.search(r"module '([^']+)' has no attribute '([^']+)'|No module named '([^']+)'", message)
    if absent:
        what = f"{absent[1]} has no class {absent[2]}" if absent[1] else f"there is no module {absent[3]}"
        return f"{name}: {what}"
    return None


def _not_of_class(message: str, name: str) -> str | None:
    nested = re.search(r"Option '([^']+)' is not accepted", message)
    if nested:
        owner = (CLASS.findall(message) or ["it"])[-1]
        close = difflib.get_close_matches(nested[1], _arguments(owner), n=1, cutoff=0.6)
        return f"{name}: {owner} has no option {nested[1]!r}" + (f"; did you mean {close[0]}?" if close else "")
    alone = re.search(r"argument (--[^\s:]+): expected (?:one|at least one) argument", message)
    return f"{alone[1]} needs a value" if alone else None


def _unknown(message: str, options: Sequence[str]) -> str | None:
    if re.search(r"Option '([^']+)' is not accepted", message):
        return None
    grouped = re.search(r"Group '([^']+)' does not accept option '([^']+)'", message)
    typed = re.search(r"unrecognized arguments: (--[^\s=]+|\S+)", message)
    if not (grouped or typed):
        return None
    unknown = f"--{grouped[1]}.{grouped[2]}" if grouped else typed[1]  # type: ignore[index]
    return unknown_option(unknown, options, ADVICE["train"])


def _missing(message: str) -> str | None:
    if KEY.search(message) and "model.network" in message and "NoneType" in message:
        return (
            "the configuration names no network: pass --network.class_path kinetic.nn.UNet, or a --config that has one"
        )
    return None


def _value(message: str, name: str) -> str | None:
    kinds = re.findall(r"Expected an? (<class '[\w.]+'>|typing\.Literal\[.*?\])(?=[.\s]|$)", message)
    values = re.findall(r"(?:Got|Given) value: (.*)", message)
    if not kinds or not values or not name:
        return None
    literals = [
        word for kind in kinds if kind.startswith("typing") for word in kind[15:-1].replace("'", "").split(", ")
    ]
    words = [f"one of {', '.join(dict.fromkeys(literals))}"] if literals else []
    names = re.findall(r"<class '(?:\w+\.)*(\w+)'>", " ".join(kinds))
    words += dict.fromkeys(KINDS.get(kind, f"a {kind}") for kind in names)
    some = [word for word in words if word != "null"]
    if not some:
        problem = re.search(r"Problem with given class_path '([^']*)':\s*(.+?)\n\s*- Expected", message, re.S)
        return f"{name}: {problem[1]}: {' '.join(problem[2].split())[:300]}" if problem else None
    value = re.sub(r"^NestedArg\(key='[^']*', val='?(.*?)'?\)$", r"\1", values[-1].strip())
    return f"{name} takes {' or '.join(some)}, got {value[:LONGEST]!r}"


def _arguments(path: str) -> list[str]:
    """Names of the arguments of a class that was imported already."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    kinds = found.__mro__ if isinstance(found, type) else ()
    makers = [vars(kind).get("__init__") for kind in kinds if kind is not object]
    return [arg for make in makers if make is not None for arg in inspect.signature(make).parameters]
