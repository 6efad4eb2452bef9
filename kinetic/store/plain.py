"""YAML and JSON from files that may be damaged or hostile: bounded before anything walks them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kinetic.errors import KineticError

BYTES = 4 * 2**20  # of a YAML file
DEPTH = 60
NODES = 100_000  # of a YAML file, with its aliases written out
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str, *, name: str) -> Any:
    """Parse the YAML called `name` to plain types; KineticError where it is too large, too deep, or damaged."""
    check_yaml(text, name=name)
    try:
        return yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise KineticError(f"{name} cannot be read: {_reason(error)}") from None


def check_yaml(text: str, *, name: str) -> None:
    """Raise KineticError unless `text` is YAML of a bounded size, depth, and number of nodes behind its aliases."""
    if len(text) > BYTES:
        raise KineticError(f"{name} cannot be read: it has {len(text):,} characters, at most {BYTES:,} are allowed")
    try:
        nodes = _nodes(yaml.parse(text, Loader=LOADER))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise KineticError(f"{name} cannot be read: {_reason(error)}") from None
    if nodes > NODES:
        raise KineticError(f"{name} cannot be read: its aliases stand for {nodes:,} values, at most {NODES:,} are read")


def parse_json(text: str | bytes, *, name: str) -> Any:
    """Parse the JSON called `name`; KineticError where it is damaged or nested without end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KineticError(f"{name} cannot be read: {_reason(error)}") from None


def read_text(path: Path, *, most: int = BYTES) -> str:
    """Read a text file of at most `most` bytes; KineticError where there is none, or it cannot be read."""
    try:
        if path.stat().st_size > most:
            raise KineticError(f"{path} cannot be read: it has more than {most:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KineticError(f"{path} cannot be read: {_reason(error)}") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file to plain types; KineticError as `read_text` and `parse_yaml` do."""
    return parse_yaml(read_text(path), name=str(path))


def read_json(path: Path, *, most: int = BYTES) -> Any:
    """Read a JSON file of at most `most` bytes to plain types; KineticError as `read_text` and `parse_json` do."""
    return parse_json(read_text(path, most=most), name=str(path))


def _nodes(events: Iterator[Any]) -> int:
    """Count values with every alias written out."""
    open_: list[tuple[str | None, int]] = []  # the collections that are open: anchor, and values in them so far
    known: dict[str, tuple[int, int]] = {}  # by anchor: values and depth
    deepest: list[int] = []
    total = 0
    keys: list[set[str] | None] = []  # of each collection that is open: the keys so far, None of a list
    parts: list[int] = []  # of each: how many keys and values it has, at its own level
    for event in events:
        count, depth = 0, 0
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            parts.pop()
        elif isinstance(event, yaml.NodeEvent) and parts:
            parts[-1] += 1
            known_keys = keys[-1]
            if known_keys is not None and parts[-1] % 2 and isinstance(event, yaml.ScalarEvent):
                if event.value in known_keys:
                    raise ValueError(f"it has {event.value!r:.60} twice")
                known_keys.add(event.value)
        if isinstance(event, yaml.CollectionStartEvent):
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            parts.append(0)
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            deepest.append(1)
            if len(open_) > DEPTH:
                raise ValueError(f"it is nested more than {DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, count = open_.pop()
            depth = deepest.pop()
            if anchor is not None:
                known[anchor] = count, depth
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise ValueError(f"the alias *{event.anchor} stands for what it lies in, or for nothing")
            count, depth = known[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count, depth = 1, 1
            if event.anchor is not None:
                known[event.anchor] = 1, 1
        if len(open_) + depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        if not count:
            continue
        if open_:
            open_[-1] = open_[-1][0], open_[-1][1] + count
            deepest[-1] = max(deepest[-1], depth + 1)
        else:
            total += count
        if (open_[-1][1] if open_ else total) > 2**60:
            break
    return total


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{getattr(error, 'problem', None) or 'no YAML'} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split()) or type(error).__name__
