"""Trainings of a run's own recipe with other settings, each a proper run, several side by side.

A run's configuration may be a stranger's: a training goes on from a folder that holds its config.yaml, as
`kinetic train --resume` does it, which trusts no more than what is named beside it.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.memorization.earlier import step_of
from kinetic.report.folder import Run
from kinetic.report.sources import Unavailable
from kinetic.store.files import write_text
from kinetic.store.plain import parse_yaml, read_text
from kinetic.store.runs import CONFIG, LAST

ASKED, LOG = "asked.yaml", "training.log"  # in the folder: what was asked for, and what the training said
POLL, GRACE = 1.0, 30  # seconds between looks, and that trainings have to stop in


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: the folder of its run, and its whole configuration as plain types."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """Steps that it takes at most."""
        return int(self.config["trainer"]["max_steps"])

    def done(self, patience: int | None = None) -> bool:
        """Whether nothing is left to train: all steps are taken, or `patience` validations after the onset."""
        if patience is None:
            return checkpoint_step(self.folder) >= self.steps
        measured, onset = measured_steps(self.folder), copies_onset(self.folder)
        late = [step for step in measured if onset is not None and step > onset]
        return any(step >= self.steps for step in measured) or (onset is not None and len(late) >= patience)

    def prepare(self, *, overwrite: bool = False) -> None:
        """Make the folder, or go on in it; KineticError where another training lies there and may not be replaced."""
        asked = self.folder / ASKED
        if asked.is_file() and _lasting(parse_yaml(read_text(asked), name=str(asked))) != _lasting(self.config):
            if not overwrite:
                raise KineticError(f"{self.folder} holds a training with other settings; --overwrite replaces it")
            shutil.rmtree(self.folder)
        write_text(asked, yaml.safe_dump(dict(self.config)))
        if not (self.folder / CONFIG).is_file():
            write_text(self.folder / CONFIG, yaml.safe_dump(dict(self.config)))


def _lasting(config: Any) -> Any:
    """All settings but the number of steps, which may grow."""
    trainer = {name: value for name, value in config["trainer"].items() if name != "max_steps"}
    return {**config, "trainer": trainer}


def measured_steps(folder: Path) -> list[int]:
    """Steps at which copies were counted; none where nothing was."""
    return list(series(folder, "memorization/f_mem"))


def series(folder: Path, name: str) -> dict[int, float]:
    """Values of a metric of a run by step; none where there are none."""
    with suppress(Unavailable):
        return Run(folder).metrics.series(name)
    return {}


def checkpoint_step(folder: Path) -> int:
    """Step of the last checkpoint of a run; 0 without one."""
    try:
        return step_of(folder / LAST)
    except (KineticError, OSError):
        return 0


def last_step(folder: Path) -> int:
    """The last step of a run that is written down; 0 before any is."""
    with suppress(Unavailable, ValueError):
        return int(Run(folder).metrics.rows[-1]["step"])
    return 0


def copies_onset(folder: Path) -> int | None:
    """Step in onset.json; None without one."""
    with suppress(Unavailable):
        step = Run(folder).onset.get("step")
        return step if isinstance(step, int) else None
    return None


def train_all(
    trainings: Sequence[Training],
    *,
    jobs: int,
    patience: int | None = None,
    trust: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[Path, str]:
    """Train what is not done, `jobs` at a time with one thread each; what went wrong, by folder, in a line each."""
    faults: dict[Path, str] = {}
    waiting = []
    for one in trainings:
        try:
            one.prepare(overwrite=overwrite)
        except KineticError as error:
            faults[one.folder] = str(error)
        else:
            waiting += [] if one.done(patience) else [one]
    running: dict[Path, subprocess.Popen[bytes]] = {}
    bar = progress("training", "steps", total=sum(one.steps for one in waiting))
    seen = dict.fromkeys((one.folder for one in waiting), 0)
    steps = {one.folder: one.steps for one in waiting}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                one = waiting.pop(0)
                running[one.folder] = _started(one, trust)
            time.sleep(POLL)
            for folder, process in list(running.items()):
                ended = process.poll() is not None
                taken = steps[folder] if ended else last_step(folder)
                bar.update(max(taken - seen[folder], 0))
                seen[folder] = max(taken, seen[folder])
                if ended:
                    del running[folder]
                if process.returncode:
                    faults[folder] = _fault(folder)
    finally:
        bar.close()
        _end(running.values())
    return faults


def _started(one: Training, trust: Sequence[str]) -> "subprocess.Popen[bytes]":
    named = [word for name in trust for word in ("--trust", name)]
    command = [sys.executable, "-m", "kinetic", "train", "--resume", str(one.folder.resolve()), *named]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **threads, "KINETIC_RUN": ""}
    with open(one.folder / LOG, "ab") as log:
        # the number of steps may have grown since the run was begun
        return subprocess.Popen(
            [*command, "--trainer.max_steps", str(one.steps)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
        )


def _fault(folder: Path) -> str:
    """The last line that a training said."""
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip().removeprefix("error: ") for line in lines if line.strip()]
    return said[-1][:300] if said else "the training ended without a word"


def _end(processes: Any) -> None:
    """Have trainings stop, which keeps a checkpoint to go on from, and end those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
