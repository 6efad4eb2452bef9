"""The shaping that was tuned for a run, in a file of it."""

import json
from pathlib import Path
from typing import Any

from kinetic.advice import command
from kinetic.errors import KineticError
from kinetic.flow.sampling import shaping_named
from kinetic.flow.shaping import KTS
from kinetic.store.files import write_text
from kinetic.store.plain import parse_json, read_text

FILE = "tuned.json"


def write_tuned(run: Path, kts: KTS, **about: Any) -> Path:
    """Write tuned.json: the shaping, and what it was tuned for, plain types."""
    write_text(run / FILE, json.dumps({"kts": kts.to_dict(), **about}, indent=2) + "\n")
    return run / FILE


def tuned_shaping(run: Path) -> tuple[KTS, dict[str, Any]]:
    """Read the shaping of a run and what it was tuned for; KineticError, with what to do, where there is none."""
    advice = f"tune it with {command('tune')} {run.name}"
    if not (run / FILE).is_file():
        raise KineticError(f"--kts tuned: run {run.name} has no {FILE}; {advice}")
    found = parse_json(read_text(run / FILE), name=str(run / FILE))
    if not isinstance(found, dict) or not isinstance(found.get("kts"), dict):
        raise KineticError(f"{run / FILE} is damaged: it holds no shaping; {advice}")
    try:
        return shaping_named(found["kts"]), found
    except (TypeError, ValueError) as error:
        raise KineticError(f"{run / FILE} is damaged: {error}; {advice}") from None


def differs(found: dict[str, Any], identity: dict[str, Any], sampler: dict[str, Any]) -> str:
    """In what the sampling differs from what was tuned, in words; empty where it does not."""
    ways = found.get("sampler")
    ways = ways if isinstance(ways, dict) else {}
    checks = {"step": identity.get("step"), "weights": identity.get("weights")}
    other = [f"{name} {found.get(name)}" for name, now in checks.items() if found.get(name) != now]
    other += [f"{name} {ways.get(name)}" for name in ("method", "steps") if ways.get(name) != sampler.get(name)]
    return ", ".join(other)
