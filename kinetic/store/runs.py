"""Run folders: runs/NAME, each owned by one process while it is trained, and runs/latest that names the newest."""

import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kinetic.advice import command
from kinetic.errors import KineticError
from kinetic.store.files import is_left_over, remove_left_over, sha256, write_text
from kinetic.store.locks import FILE as LOCK
from kinetic.store.locks import Lock
from kinetic.store.plain import read_text

LATEST = "latest"
CONFIG = "config.yaml"
SUBSET = "subset.txt"
LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
NAME = re.compile(r"\w[\w.,+=@ -]{0,98}[\w+=@]|\w")
NAMES = "at most 100 letters, digits and _ + = @, inside also . , - and spaces"
POINTER = "kinetic run: "  # how runs/latest begins where links cannot be made
SHOWN = 20


def check_name(name: str, *, option: str = "--run.name") -> str:
    """Return a name that a run may have; KineticError otherwise."""
    if name == LATEST or not NAME.fullmatch(name):
        shown = repr(name if len(name) <= 60 else f"{name[:60]}...")
        raise KineticError(f"{option} {shown} cannot name a run: pass {NAMES}; not {LATEST!r}")
    return name


class RunFolder:
    """The folder of a run, which this process owns until `close`.

    Nothing is written into it before `begin`, when everything that a run needs has been built; what fails before its
    first step leaves nothing behind (`abandon`).
    """

    def __init__(self, path: Path, lock: Lock, *, new: bool) -> None:
        self.path, self.new = path, new
        self.begun = self.stepped = self.fresh_root = False
        self._lock = lock

    @classmethod
    def claim(cls, root: Path, name: str | None, stem: str, *, options: str = "--run.") -> "RunFolder":
        """Make the folder of a new run, root/name or root/stem-DATE-TIME; KineticError where the name is taken.

        `options` is how the options `name` and `root` begin where they are typed.
        """
        if not str(root).strip() or (root.exists() and not root.is_dir()):
            raise KineticError(f"{options}root {str(root)!r} is no folder: pass one, such as runs")
        fresh = not root.exists()
        root.mkdir(parents=True, exist_ok=True)
        folder = cls._claimed(root, name, stem, options)
        folder.fresh_root = fresh
        return folder

    @staticmethod
    def _claimed(root: Path, name: str | None, stem: str, options: str) -> "RunFolder":
        if name is not None:
            path = root / check_name(name, option=f"{options}name")
            return _made(path) or _unused(path) or _taken(path, options)
        stem = (re.sub(r"[^\w+=@-]", "-", stem).strip("-")[:60]) or "run"
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for suffix in ["", *(f"-{n}" for n in range(2, 1000))]:
            made = _made(root / f"{stem}-{stamp}{suffix}")
            if made is not None:
                return made
        raise KineticError(f"too many runs were started at once in {root}; pass {options}name")

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Take a run that exists; KineticError while another process trains it."""
        return cls(path, Lock(path, what="trained"), new=False)

    def begin(self, config: str, subset: Iterable[str] | None) -> None:
        """Write what the run is: its resolved settings, and which images it is trained on, where that is known."""
        self.begun = True
        self.tidy()
        write_text(self.path / CONFIG, config)
        if subset is not None:
            write_text(self.path / SUBSET, "".join(f"{name}\n" for name in subset))

    def tidy(self) -> None:
        """Remove the temporary files that killed processes left."""
        for folder in (self.path, *(place for place in self.path.iterdir() if place.is_dir())):
            remove_left_over(folder)

    def step(self) -> None:
        """Note that a step has been taken: from now on this is the newest run."""
        if not self.stepped:
            self.stepped = True
            self.trouble = point_latest(self.path)

    trouble: str | None = None  # why runs/latest does not name this run

    @property
    def unfinished_start(self) -> bool:
        """Whether this is a new run that has taken no step and kept nothing."""
        return self.new and not self.stepped and not any((self.path / "checkpoints").glob("*.ckpt"))

    def abandon(self) -> None:
        """Remove a new run that never took a step."""
        if self.unfinished_start:
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # not empty
                if self.fresh_root:
                    self.path.parent.rmdir()

    def close(self) -> None:
        """Let others have it."""
        self._lock.release()


def _made(path: Path) -> RunFolder | None:
    try:
        path.mkdir()
    except FileExistsError:
        return None
    return RunFolder(path, Lock(path, what="trained"), new=True)


def _unused(path: Path) -> RunFolder | None:
    """Take over a folder in which a run was killed before or while it began; None where there is anything in it."""
    if not path.is_dir() or any(place.name != LOCK and not is_left_over(place) for place in path.iterdir()):
        return None
    return RunFolder(path, Lock(path, what="trained"), new=True)


def _taken(path: Path, options: str) -> RunFolder:
    if (path / CONFIG).is_file():
        advice = f"continue it with --resume {path.name}, or " if options == "--run." else ""
        raise KineticError(f"run folder {path} exists already; {advice}choose another {options}name")
    raise KineticError(f"{path} exists already and is no run; choose another {options}name")


def subset_hash(run: Path | None) -> str | None:
    """SHA-256 of which images a run was trained on, as it wrote down; None where it did not."""
    listed = None if run is None else run / SUBSET
    return sha256(listed) if listed is not None and listed.is_file() else None


def find_run(root: Path, spec: str | None) -> Path:
    """Find a run by name, by path, or (None) the newest; KineticError that says what to do."""
    if spec in (None, "", LATEST):
        return _newest(root)
    for folder in (root / str(spec), Path(str(spec))):
        if (folder / CONFIG).is_file():
            return folder.resolve()
    known = sorted(p.name for p in root.glob("*") if (p / CONFIG).is_file() and p.name != LATEST)
    listed = ", ".join(known[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
    raise KineticError(f"no run {str(spec)!r:.120} in {root}/; known runs: {listed or 'none'}")


def _newest(root: Path) -> Path:
    link = root / LATEST
    if link.is_file():
        named = read_text(link, most=1000)
        link = root / named.removeprefix(POINTER).strip() if named.startswith(POINTER) else link
    if not (link / CONFIG).is_file():
        raise KineticError(f"there is no run in {root}/ yet; train one first: {command('train')}")
    return link.resolve()


def point_latest(run: Path) -> str | None:
    """Let runs/latest name `run`; return why it could not be, as where a file or folder of that name is a person's own.

    It is a link, or a small text file where links cannot be made.
    """
    link = run.parent / LATEST
    own = not link.is_symlink() and link.exists()
    if own and not (link.is_file() and link.stat().st_size < 1000 and read_text(link).startswith(POINTER)):
        return f"{link} is not Kinetic's, so it is left alone and does not name this run"
    beside = run.parent / f".{LATEST}.{run.name}.tmp"  # of the run, so that it finds what it left when it was killed
    try:
        beside.unlink(missing_ok=True)
        try:
            beside.symlink_to(run.name)
        except (OSError, NotImplementedError):
            beside.write_text(f"{POINTER}{run.name}\n", encoding="utf-8")
        os.replace(beside, link)
    except OSError as error:
        beside.unlink(missing_ok=True)
        return f"{link} cannot be written ({error.strerror or error}), so it does not name this run"
    return None
