"""When a model begins to spend what training images bear out and held-out ones do not: the onset by energy.

Any field but the optimal one spends more than held-out images bear out, or bears out less than it could: a poor fit has
an excess, too. What tells memorising from a poor fit is that training images do bear it out. So the rule asks for both:
an excess, and a balance of training images above that of held-out ones.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinetic.store.files import write_text


@dataclass(frozen=True)
class Excess:
    """The excess of one validation with its 95 % interval, in the unit of energy.

    `gap_low` is the lower end of what the balance of training images lies above that of held-out ones; NaN if unknown.
    """

    step: int
    value: float
    low: float
    high: float
    gap_low: float = math.nan

    @property
    def memorizing(self) -> bool:
        """Whether the excess lies above 0 and training images bear it out, as far as is known."""
        return self.low > 0 and not self.gap_low <= 0


def find_energy_onset(history: Iterable[Excess]) -> Excess | None:
    """Find the first validation with an excess that training images bear out, as do all that follow; None without."""
    found: Excess | None = None
    for one in sorted(history, key=lambda excess: excess.step):
        if not one.memorizing:
            found = None
        elif found is None:
            found = one
    return found


class ExcessHistory:
    """The excess of every validation so far, and what follows from it."""

    def __init__(self) -> None:
        self.validations: dict[int, Excess] = {}

    def state(self) -> dict[str, Any]:
        """Plain types for a checkpoint."""
        return {"validations": [asdict(one) for one in self.validations.values()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.validations = {int(one["step"]): Excess(**one) for one in state["validations"]}

    def add(self, excess: Excess) -> None:
        """Add a validation; one of the same step is replaced."""
        self.validations[excess.step] = excess

    @property
    def onset(self) -> Excess | None:
        """The onset as far as is known."""
        return find_energy_onset(self.validations.values())

    def write(self, folder: Path) -> None:
        """Write balance.json; its step is null as long as there is no onset."""
        onset = self.onset
        found = dict.fromkeys(Excess.__dataclass_fields__) if onset is None else asdict(onset)
        found = {name: None if value is None or math.isnan(value) else value for name, value in found.items()}
        write_text(folder / "balance.json", json.dumps(found, indent=2) + "\n")


def onset_line(onset: Excess) -> str:
    """One line on the onset."""
    return (
        f"Energy beyond what held-out images bear out: {onset.value:.3g} ({onset.low:.3g} to {onset.high:.3g}) at step "
        f"{onset.step}; the model begins to memorise if this stays"
    )
