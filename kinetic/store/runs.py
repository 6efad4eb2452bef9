"""Run folders: runs/NAME, and runs/latest that points at the newest."""

import os
import time
from pathlib import Path

from kinetic.errors import KineticError

LATEST = "latest"
CONFIG = "config.yaml"
LAST = "checkpoints/last.ckpt"


def new_run(root: Path, name: str | None, stem: str) -> Path:
    """Choose the folder of a new run: root/name, or root/stem-DATE-TIME; raises ValueError if `name` is taken."""
    if name == LATEST or (name and Path(name).name != name):
        raise KineticError(f"run name {name!r} is not a plain folder name; choose another with --run.name")
    if name is not None:
        folder = root / name
        if folder.exists():
            raise KineticError(
                f"run folder {folder} exists already; continue it with --resume {name}, or choose another --run.name"
            )
        return folder
    stamp = time.strftime("%Y%m%d-%H%M%S")
    tries = (root / f"{stem}-{stamp}{suffix}" for suffix in ["", *(f"-{n}" for n in range(2, 1000))])
    return next(folder for folder in tries if not folder.exists())


def find_run(root: Path, spec: str | None) -> Path:
    """Find a run by name, by path, or (None) the newest; raises ValueError that says what to do."""
    if spec in (None, "", LATEST):
        folder = root / LATEST
        if not folder.exists():
            raise KineticError(f"there is no run in {root}/ yet; train one first: uv run train.py")
        return folder.resolve()
    for folder in (root / str(spec), Path(str(spec))):
        if (folder / CONFIG).is_file():
            return folder.resolve()
    known = sorted(p.name for p in root.glob("*") if (p / CONFIG).is_file() and p.name != LATEST)
    raise KineticError(f"no run {str(spec)!r} in {root}/; known runs: {', '.join(known) or 'none'}")


def point_latest(run: Path) -> None:
    """Let runs/latest point at `run`, replacing the old link in one move."""
    link = run.parent / LATEST
    beside = run.parent / f".{LATEST}.{os.getpid()}.tmp"
    beside.unlink(missing_ok=True)
    beside.symlink_to(run.name)
    os.replace(beside, link)
