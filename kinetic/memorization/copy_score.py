"""The copy score: from what a network says about a sample to the odds that it is a copy, without training data.

Signals are logarithms of what `posterior` finds, of the network itself (8 evaluations) and, where there is one, of an
earlier checkpoint of the same run (8 more), which knows how hard a sample is for a network that does not copy yet. A
logistic regression that was fitted on *another* run, whose copies are known, puts them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinetic.errors import KineticError
from kinetic.memorization.detectors import Posterior

Array = NDArray[Any]

OWN = ("spread", "error", "bias")
BEFORE = tuple(f"{name}_before" for name in OWN)
SHRINKAGE = 0.3  # C of the regression on standardised signals


def signals_of(own: Sequence[Posterior], before: Sequence[Posterior] = ()) -> dict[str, Array]:
    """Logarithms of what was found of batches of samples, each [N] float64; those of an earlier checkpoint if any."""
    found = {}
    for names, parts in ((OWN, own), (BEFORE, before)):
        for name in names if parts else ():
            values = np.concatenate([_numbers(part, name.removesuffix("_before")) for part in parts])
            with np.errstate(divide="ignore"):
                found[name] = np.log(np.maximum(values, np.finfo(np.float32).tiny) + 0 * values)
    return found


def _numbers(part: Posterior, name: str) -> Array:
    values: Array = getattr(part, name).detach().cpu().double().numpy()
    return values


def plain_score(signals: Mapping[str, Array]) -> tuple[str, Array]:
    """The score that needs no fit, large for copies: how much less the guesses spread than they did before."""
    if "spread_before" in signals:
        return "spread against the earlier checkpoint's", signals["spread_before"] - signals["spread"]
    return "spread", -signals["spread"]


@dataclass(frozen=True)
class CopyScore:
    """Log-odds of a copy: intercept + Σ weight (signal - mean)/scale.

    Attributes:
        names: of the signals.
        mean: of each over the samples that it was fitted on, and `scale` their spread.
        weights: of the standardised signals.
        intercept: log-odds where all signals are at their mean.
        fitted_on: what it was fitted on, for people.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    fitted_on: str

    @classmethod
    def fit(cls, signals: Mapping[str, Array], copied: Array, *, fitted_on: str) -> "CopyScore":
        """Fit to samples whose copies are known; KineticError with fewer than 10 of either kind."""
        from sklearn.linear_model import LogisticRegression

        names = tuple(signals)
        rows, copied = np.stack([signals[name] for name in names], 1), np.asarray(copied, bool)
        keep = np.isfinite(rows).all(1)
        rows, copied = rows[keep], copied[keep]
        kinds = int(copied.sum()), int((~copied).sum())
        if min(kinds) < 10:
            raise KineticError(f"a copy score is fitted to 10 copies and 10 others at least, and there are {kinds}")
        mean, scale = rows.mean(0), np.maximum(rows.std(0), 1e-12)
        model = LogisticRegression(C=SHRINKAGE, max_iter=1000).fit((rows - mean) / scale, copied)
        center, spread, weights = (tuple(map(float, values)) for values in (mean, scale, model.coef_[0]))
        return cls(names, center, spread, weights, float(model.intercept_[0]), fitted_on)

    def log_odds(self, signals: Mapping[str, Array]) -> Array:
        """Log-odds that each sample is a copy, [N]."""
        missing = [name for name in self.names if name not in signals]
        if missing:
            raise KineticError(f"the copy score of {self.fitted_on} needs {missing[0]!r}: audit with --before, too")
        rows = np.stack([signals[name] for name in self.names], 1)
        odds: Array = self.intercept + ((rows - np.array(self.mean)) / np.array(self.scale)) @ np.array(self.weights)
        return odds

    def probability(self, signals: Mapping[str, Array]) -> Array:
        """Probability that each sample is a copy, [N]; its mean estimates F_mem."""
        with np.errstate(over="ignore"):
            found: Array = 1 / (1 + np.exp(-self.log_odds(signals)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain types alone; `from_dict` takes them back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any, *, source: str) -> "CopyScore":
        """Take up what `to_dict` gave; KineticError where that cannot be."""
        try:
            mean, scale, weights = (tuple(float(v) for v in values[n]) for n in ("mean", "scale", "weights"))
            names, fitted_on = tuple(str(name) for name in values["names"]), str(values["fitted_on"])
            found = cls(names, mean, scale, weights, float(values["intercept"]), fitted_on)
        except (KeyError, TypeError, ValueError):
            raise KineticError(f"{source} is no copy score; write one with: kinetic audit RUN --verify") from None
        numbers = (*found.mean, *found.scale, *found.weights, found.intercept)
        if {len(mean), len(scale), len(weights)} != {len(names)} or not np.isfinite(numbers).all() or 0 in found.scale:
            raise KineticError(f"{source} is damaged; write it anew with: kinetic audit RUN --verify")
        return found
