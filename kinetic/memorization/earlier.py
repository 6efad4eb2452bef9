"""The checkpoints that a run kept, and which of them comes before its onset."""

import re
from pathlib import Path
from typing import Any

from kinetic.errors import KineticError
from kinetic.memorization.onset import BEFORE
from kinetic.models.checkpoint import read_checkpoint
from kinetic.store.plain import parse_json, read_text

BEFORE_ONSET = "before-onset"
ONSETS = ("onset.json", "balance.json")  # where an onset is written, by F_mem and by energy; the first that has one
KEPT = re.compile(r"step=(\d{1,12})\.ckpt")


def kept_checkpoints(run: Path) -> dict[int, Path]:
    """Checkpoints of a run that stay, by step: step=N.ckpt, and that from before its onset."""
    folder = run / "checkpoints"
    found = {int(m[1]): path for path in folder.glob("step=*.ckpt") if (m := KEPT.fullmatch(path.name))}
    if (run / BEFORE).is_file():
        found.setdefault(step_of(run / BEFORE), run / BEFORE)
    return dict(sorted(found.items()))


def onset_step(run: Path) -> int | None:
    """Step of the onset of copying, by F_mem where it was found, else by energy; None where there was none."""
    for name in ONSETS:
        if (run / name).is_file():
            found = parse_json(read_text(run / name), name=str(run / name))
            step = found.get("step") if isinstance(found, dict) else None
            if isinstance(step, int) and not isinstance(step, bool):
                return step
    return None


def earlier_checkpoint(run: Path, which: str) -> Path:
    """Find `which`: "before-onset", a step of the run that was kept, or a file; KineticError where there is none.

    "before-onset" is the last validation without copying where that was kept, else the last checkpoint before it.
    """
    if which == BEFORE_ONSET:
        return _before_onset(run)
    if not which.isdecimal():
        if not Path(which).is_file():
            raise KineticError(f"no checkpoint {which!r:.120}: pass {BEFORE_ONSET}, a step that was kept, or a file")
        return Path(which)
    kept = kept_checkpoints(run)
    if len(which) > 12 or int(which) not in kept:
        raise KineticError(f"run {run.name} kept no checkpoint of step {which:.20}; {_kept(kept)}")
    return kept[int(which)]


def _before_onset(run: Path) -> Path:
    onset, kept = onset_step(run), kept_checkpoints(run)
    if onset is None:
        raise KineticError(f"run {run.name} has no onset, so none of its checkpoints is {BEFORE_ONSET}; {_kept(kept)}")
    before = _step_before(run, onset, kept)
    if before is None:
        raise KineticError(
            f"run {run.name} kept no checkpoint before its onset at step {onset}; train with --run.keep_every N, "
            "or name a checkpoint's file"
        )
    return kept[before]


def _step_before(run: Path, onset: int, kept: dict[int, Path]) -> int | None:
    """The step of before-onset.ckpt, the last validation without copying, where it was kept; else the last before.

    An onset is only known to lie between two validations, and a later checkpoint of these may copy already.
    """
    judged = step_of(run / BEFORE) if (run / BEFORE).is_file() else None
    if judged is not None and judged < onset:
        return judged
    return max((step for step in kept if step < onset), default=None)


def _kept(kept: dict[int, Path]) -> str:
    if not kept:
        return "name a checkpoint's file, or train with --run.keep_every N"
    steps = list(map(str, kept))
    return f"name a checkpoint's file, or one of the steps {', '.join(steps[:20])}{', ...' if len(steps) > 20 else ''}"


def controls_of(run: Path, step: int, *, most: int = 3) -> dict[int, Path]:
    """Earlier checkpoints that others are held against: of those before `step`, the `most` nearest to the onset.

    The last before it counts first, then those that follow it; without an onset they are spread over what was kept.
    """
    kept = {at: path for at, path in kept_checkpoints(run).items() if at < step}
    onset, steps = onset_step(run), list(kept)
    if onset is None:
        chosen = [steps[(2 * i + 1) * len(steps) // (2 * most)] for i in range(most)] if steps else []
    else:
        before = _step_before(run, onset, kept)
        chosen = [at for at in steps if before is None or at >= before][:most]
    return {at: kept[at] for at in sorted(set(chosen))}


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written; KineticError where it is damaged."""
    step: Any = read_checkpoint(checkpoint).get("global_step")
    if not isinstance(step, int):
        raise KineticError(f"checkpoint {checkpoint} is damaged: its global_step is {step!r:.40}")
    return step
