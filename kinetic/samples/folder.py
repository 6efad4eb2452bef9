"""The folder that samples go to: whose it is, what is in it, and whether there is room."""

import math
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml

from kinetic.errors import KineticError
from kinetic.flow.seeds import seed_range, seed_text
from kinetic.store.files import write_text
from kinetic.store.plain import read_yaml

RECORD = "sample.yaml"
PARTS = ".parts"  # each batch as it was drawn; what the files are made from, and what an interrupted run continues
FILES = (
    "samples.npz",
    "latents.npz",
    "samples.parquet",
    "energies.csv",
    "energies.png",
    "grid.png",
    "signals.csv",
    "memorization.json",
    "compare.csv",
    "compare.png",
    "paired.csv",
    "pareto.png",
    "scores.csv",
    "score.json",
    "summary.json",
    "suspects.png",
    "roc.png",
    "report.html",
)
FOLDERS = ("images", "shards", PARTS)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read sample.yaml; None where there is none."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return _record(read_yaml(path))
    except KineticError as error:
        reason = str(error).removeprefix(f"{path} ")
        advice = "choose another --out, or replace what is there with --overwrite"
        raise KineticError(f"{path} is damaged ({reason}); {advice}") from None


def _record(found: Any) -> dict[str, Any]:
    """Take what a record says; KineticError where it is another one."""
    if not isinstance(found, dict):
        raise KineticError(f"it holds a {type(found).__name__}, not names with values")
    for name, kind in (("settings", dict), ("seeds", str | int), ("batch_size", int)):
        if not isinstance(found.get(name), kind) or isinstance(found[name], bool):
            raise KineticError(f"its {name} is {found.get(name)!r:.40}")
    if found["batch_size"] < 1:
        raise KineticError(f"its batch_size is {found['batch_size']!s:.40}")
    return {"settings": found["settings"], "seeds": seed_range(str(found["seeds"])), "batch": found["batch_size"]}


def claim(folder: Path, settings: dict[str, Any], seeds: Sequence[int], *, overwrite: bool) -> dict[str, Any] | None:
    """Make sure that `folder` may be written to, and return the record of the same samples begun there before.

    Raises ValueError where other samples lie in it, unless `overwrite` says to remove them.
    """
    if folder.exists() and not folder.is_dir():
        raise KineticError(f"{folder} is a file; choose another --out")
    if overwrite:
        remove(folder)
        return None
    record = read_record(folder)
    advice = "choose another --out, or replace them with --overwrite"
    if record is None:
        taken = [name for name in (*FILES, *FOLDERS) if (folder / name).exists()]
        if taken:
            raise KineticError(f"{folder} holds {taken[0]} of something else; {advice}")
        return None
    difference = first_difference(record["settings"], settings)
    if difference is not None:
        raise KineticError(f"{folder} holds samples of other settings ({difference}); {advice}")
    if not set(record["seeds"]) <= set(seeds):
        raise KineticError(f"{folder} holds seeds {seed_text(record['seeds'])}, more than are asked for; {advice}")
    return record


def first_difference(old: Any, new: Any, name: str = "") -> str | None:
    """Say where two plain settings differ first, in words; None where they are equal. Paths do not count."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = None if key == "checkpoint" else first_difference(old.get(key), new.get(key), str(key))
            if found is not None:
                return found
        return None
    return None if old == new else f"{name} {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = "none" if value is None else ", ".join(value) if isinstance(value, dict) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def remove(folder: Path) -> None:
    """Remove what an earlier sampling left in `folder`, and nothing else."""
    for name in (*FILES, RECORD):
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def write_record(folder: Path, settings: dict[str, Any], seeds: Sequence[int], batch_size: int, **more: Any) -> None:
    """Write sample.yaml: all that is needed to draw the same samples again."""
    record = {
        "settings": settings,
        "seeds": seed_text(seeds),
        "batch_size": batch_size,
        **more,
        "command": ["sample.py", *sys.argv[1:]],
        "versions": {"kinetic": _version(), "torch": str(torch.__version__), "lightning": lightning.__version__},
    }
    write_text(folder / RECORD, yaml.safe_dump(record, sort_keys=False))


def device_name(device: torch.device) -> str:
    """Name the kind of device, as results differ between kinds in the last digits."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version() -> str:
    try:
        return version("kinetic-flow")
    except PackageNotFoundError:
        return "unknown"


def check_room(
    folder: Path,
    shape: Sequence[int],
    *,
    pictures: bool,
    samples: int,
    copies: int,
    steps: int,
    exact: bool,
    decoded: int = 0,
) -> None:
    """Raise KineticError if `samples` of `shape` in `copies` files, and their parts, would not fit on the disk.

    `decoded` is how many bytes a decoded sample takes in each of these files besides.
    """
    width = 1 if pictures else 4
    each = math.prod(shape) * (width * copies + (4 if exact else width)) + decoded * copies + 4 * steps + 400
    needed = int(1.05 * samples * each) + 5 * 2**20
    needed -= sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())  # there, or to be replaced
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise KineticError(
            f"not enough disk for {samples:,} samples in {folder}: they take about {needed / 2**20:,.0f} MiB and "
            f"{free / 2**20:,.0f} MiB are free; choose another --out, fewer samples or fewer formats"
        )
