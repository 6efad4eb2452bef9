"""The onset of copying: found in the history of validations, remembered in checkpoints, written to onset.json."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinetic.memorization.training_set import Null
from kinetic.store.files import write_text

BEFORE = "checkpoints/before-onset.ckpt"


@dataclass(frozen=True)
class Validation:
    """F_mem and its interval at one validation."""

    step: int
    epoch: int
    f_mem: float
    low: float
    high: float


@dataclass(frozen=True)
class Onset:
    """The first validation whose interval lies above the null's, and the last one before it."""

    at: Validation
    before: Validation | None
    null_f_mem: float
    null_high: float


def find_onset(history: Iterable[Validation], *, null_f_mem: float, null_high: float) -> Onset | None:
    """Find the onset in validations of any order; None where no interval lies above the null's `null_high`."""
    ordered: Sequence[Validation] = sorted(history, key=lambda validation: validation.step)
    for number, validation in enumerate(ordered):
        if validation.low > null_high:
            return Onset(validation, ordered[number - 1] if number else None, null_f_mem, null_high)
    return None


class History:
    """F_mem of every validation so far, and what follows from it."""

    def __init__(self) -> None:
        self.validations: dict[int, Validation] = {}
        self.null: Null | None = None

    def state(self) -> dict[str, Any]:
        """Plain types for a checkpoint."""
        null = None if self.null is None else asdict(self.null)
        return {"validations": [asdict(v) for v in self.validations.values()], "null": null}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.validations = {int(v["step"]): Validation(**v) for v in state["validations"]}
        self.null = None if state["null"] is None else Null(**state["null"])

    def add(self, validation: Validation) -> None:
        """Add a validation; one of the same step is replaced."""
        self.validations[validation.step] = validation

    @property
    def onset(self) -> Onset | None:
        """The first validation whose interval lies above the null's; None so far, or without a null."""
        if self.null is None:
            return None
        return find_onset(self.validations.values(), null_f_mem=self.null.f_mem, null_high=self.null.high)

    def write(self, folder: Path, *, kept: bool) -> None:
        """Write onset.json; its step is null as long as there is no onset. `kept`: whether checkpoints are kept."""
        onset, null = self.onset, self.null
        found: dict[str, Any] = dict.fromkeys(("step", "epoch", "f_mem", "low", "high"))
        found |= {"null_f_mem": null.f_mem, "null_high": null.high} if null else {"null_f_mem": None, "null_high": None}
        if onset is not None:
            found |= asdict(onset.at)
        before = onset is not None and onset.before is not None and kept
        found["checkpoint"] = BEFORE if before else None
        write_text(folder / "onset.json", json.dumps(found, indent=2) + "\n")


def onset_line(onset: Onset, *, kept: bool) -> str:
    """One line on the onset and on what was kept of the time before it."""
    at = onset.at
    if onset.before is None:
        before = "no validation came before it, so nothing from before it is kept"
    elif kept:
        before = f"step {onset.before.step}, the last one before it, is kept in {BEFORE}"
    else:
        before = f"the last validation before it was at step {onset.before.step}"
    null = f"{onset.null_high:.1%}"
    return (
        f"Copying begins: at step {at.step}, {at.f_mem:.1%} of the samples are copies of training images "
        f"({at.low:.1%} to {at.high:.1%}; of held-out images, at most {null} would count as such); {before}"
    )
