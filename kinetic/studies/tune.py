"""The shaping that suits a run best, found on some seeds and judged on others, against controls at equal cost.

Candidates share seeds. In every round the better third goes on to more seeds, so that most evaluations are spent on the
settings that matter (successive halving; Jamieson and Talwalkar 2016, arXiv 1502.07943). Controls (the flow stopped
early, earlier checkpoints, noise) are searched by the same rule with the same number of evaluations.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.ramps import FORMS
from kinetic.flow.sampling import Sampler
from kinetic.flow.shaping import KTS, PRESETS
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.moments import frechet_distance, moments
from kinetic.studies.controls import DIVIDED, divided_controls, noised, stops_at
from kinetic.studies.experiment import Derive
from kinetic.studies.grids import OFF, shaping_name
from kinetic.studies.qualities import Gathered, Judge
from kinetic.studies.setting import Setting
from kinetic.studies.subject import Drawing, Subject, evaluations_a_sample

ROUNDS, SHARE = 3, 3  # and one of three candidates goes on
LEAST_SEEDS = 64
STRONGEST = 0.2  # launch that is tried
TAUS = (0.1, 0.9)
EARLIEST = 0.75  # time at which the flow is stopped as a control
LEVELS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # of noise, shares of the distance of training images


@dataclass(frozen=True)
class Score:
    """F_mem and Fréchet distance of a setting on some seeds."""

    f_mem: float
    fd: float


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is looked for.

    Attributes:
        kind: the fewest copies at a Fréchet distance no more than `tolerance` (a share) above that of the unshaped
            flow, or the smallest distance at an F_mem of at most `f_mem`.
    """

    kind: Literal["copies", "quality"] = "copies"
    tolerance: float = 0.05
    f_mem: float = 0.0

    def allows(self, score: Score, off: Score) -> bool:
        """Whether a setting meets the bound."""
        return score.fd <= (1 + self.tolerance) * off.fd if self.kind == "copies" else score.f_mem <= self.f_mem

    def key(self, score: Score, off: Score) -> tuple[float, ...]:
        """What to sort settings by, the best first: those that meet the bound before those that miss it."""
        bound, wanted = (score.fd, score.f_mem) if self.kind == "copies" else (score.f_mem, score.fd)
        return (0, wanted, bound) if self.allows(score, off) else (1, bound, wanted)

    @property
    def text(self) -> str:
        """In words."""
        if self.kind == "copies":
            return f"least F_mem at a Fréchet distance at most {100 * self.tolerance:g} % above the unshaped flow's"
        return f"smallest Fréchet distance at an F_mem of at most {100 * self.f_mem:g} %"


def shapings(base: Sampler, count: int, *, seed: int = 0) -> dict[str, Setting]:
    """Presets, and shapings spread evenly over strengths, τ and forms; small strengths are tried more often."""
    found = [replace(base.kts, alpha=a, beta=b) for a, b in PRESETS.values() if a or b]
    points = qmc.Sobol(3, seed=seed).random_base2(max(count, 1).bit_length())
    forms: Any = [{"launch": launch, "landing": landing} for landing in FORMS for launch in FORMS]
    for number, (a, b, t) in enumerate(points.tolist()):
        form = replace(base.kts, **forms[number % len(forms)])
        alpha, beta = _rounded(STRONGEST * a**2), _rounded(form.largest_beta * b**2)
        found.append(replace(form, alpha=alpha, beta=beta, tau=round(TAUS[0] + t * (TAUS[1] - TAUS[0]), 2)))
    named = {shaping_name(kts): Setting(sampler=replace(base, kts=kts)) for kts in found[: max(count, 1)]}
    return {name: setting for name, setting in named.items() if not setting.sampler.kts.is_off}


def _rounded(value: float) -> float:
    """Two significant digits, downwards."""
    scale = 10.0 ** (1 - math.floor(math.log10(value))) if value > 0 else 1.0
    return math.floor(value * scale) / scale


def stops(base: Sampler, count: int) -> dict[str, Setting]:
    """The unshaped flow stopped at `count` times, more of them late."""
    off = replace(base, kts=KTS(tau=base.kts.tau))
    ends = {round(1 - (1 - max(EARLIEST, off.kts.tau + 0.01)) * ((i + 1) / count) ** 2, 4) for i in range(count)}
    return stops_at(off, [end for end in sorted(ends, reverse=True) if end < 1])


@dataclass
class Seen:
    """What is known of one setting: copies and features of the seeds that it was tried on."""

    copied: list[NDArray[np.float64]] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)

    def score(self, judge: Judge) -> Score:
        """Over all seeds so far; samples that are not finite are no copies, and leave no features."""
        found = torch.cat(self.features)
        found = found[found.isfinite().all(1)]
        fd = frechet_distance(moments(found), judge.real.moments) if len(found) > 1 else math.inf
        return Score(float(np.concatenate(self.copied).mean()), fd)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Settings from the best to the worst, with their scores and how many seeds each was tried on."""

    scores: dict[str, Score]
    seeds: dict[str, int]
    off: Score
    spent: int  # evaluations

    @property
    def best(self) -> str:
        """Name of the best one."""
        return next(iter(self.scores))


class Search:
    """Finds the best of some settings within a budget; one search a family, all on the same seeds."""

    def __init__(
        self, subject: Subject, goal: Goal, training_set: TrainingSet | None, judge: Judge | None, *, budget: int
    ) -> None:
        """Say what is searched for, with how many network evaluations; the first process alone needs the data."""
        self.subject, self.goal, self.budget = subject, goal, budget
        self.training_set, self.judge = training_set, judge
        self.cost = evaluations_a_sample(subject.sampler)
        self.start = max(subject.seeds) + 1  # beyond the seeds of the report

    @property
    def affordable(self) -> int:
        """How many settings the first round can try."""
        found = self.budget // (ROUNDS * LEAST_SEEDS * self.cost) - 1  # beside the unshaped flow
        if found < SHARE:
            needed = ROUNDS * LEAST_SEEDS * self.cost * (SHARE + 1)
            raise KineticError(f"--budget {self.budget:,} is too small: {needed:,} evaluations are needed at least")
        return found

    def run(self, settings: Mapping[str, Setting], off: Setting, *, into: str, levels: Sequence[float] = ()) -> Ranked:
        """Try settings round by round; every process calls this. `levels` are distances of noise, tried at no cost."""
        alive, seen = list(settings), {name: Seen() for name in (OFF, *settings)}
        seeds, spent = self.start, 0
        for number in range(ROUNDS):
            size = max(LEAST_SEEDS, self.budget // (ROUNDS * self.cost * (len(alive) + 1)))
            chosen = {OFF: off, **{name: settings[name] for name in alive}}
            drawing = self.subject.draw(chosen, into=f"{into}/round-{number + 1}", seeds=range(seeds, seeds + size))
            spent += size * self.cost * len(chosen)
            if self.subject.first:
                self._take(drawing, seen, levels)
                names = [name for name in seen if name != OFF and len(seen[name].copied) == number + 1]
                alive = self._better(names, seen)
            alive = self.subject.trainer.strategy.broadcast(alive)
            alive = [name for name in alive if name in settings]
            seeds += size
            if not alive:
                break
        return self._ranked(seen, spent)

    def _take(self, drawing: Drawing, seen: dict[str, Seen], levels: Sequence[float]) -> None:
        """Look at what was drawn: copies and features of every setting, and of what is derived from them."""
        assert self.judge is not None
        gathered = Gathered(self.judge)
        derived = {**divided_controls(drawing.job.settings), **noises(levels)}
        tables = drawing.collect(training_set=self.training_set, derived=derived, files=[nullcontext(gathered.take)])
        for name, table in tables.items():
            one = seen.setdefault(name, Seen())
            one.copied.append(table.columns["copied"])
            one.features.append(torch.cat(gathered.found[name]))

    def _better(self, names: Sequence[str], seen: Mapping[str, Seen]) -> list[str]:
        """The better third of settings, and what they are derived from."""
        ordered = self._ordered(names, seen)
        kept = ordered[: max(1, math.ceil(len(ordered) / SHARE))]
        return list(dict.fromkeys(name.removesuffix(DIVIDED) for name in kept))

    def _ordered(self, names: Sequence[str], seen: Mapping[str, Seen]) -> list[str]:
        assert self.judge is not None
        judge, off = self.judge, seen[OFF].score(self.judge)
        return sorted(names, key=lambda name: self.goal.key(seen[name].score(judge), off))

    def _ranked(self, seen: Mapping[str, Seen], spent: int) -> Ranked:
        if not self.subject.first or self.judge is None:
            return Ranked(scores={}, seeds={}, off=Score(math.nan, math.nan), spent=spent)
        most = max(len(one.copied) for one in seen.values())
        names = [name for rounds in range(most, 0, -1) for name in self._of_rounds(seen, rounds)]
        return Ranked(
            scores={name: seen[name].score(self.judge) for name in names},
            seeds={name: sum(map(len, seen[name].copied)) for name in names},
            off=seen[OFF].score(self.judge),
            spent=spent,
        )

    def _of_rounds(self, seen: Mapping[str, Seen], rounds: int) -> list[str]:
        """Settings that were tried in so many rounds, the best first."""
        return self._ordered([n for n, one in seen.items() if n != OFF and len(one.copied) == rounds], seen)


def noise_levels(training_set: TrainingSet) -> list[float]:
    """Distances of noise to try, by the mean distance between training images."""
    images = training_set.first(200).float().flatten(1)
    return [level * float(torch.pdist(images).mean()) for level in LEVELS]


def noise_name(level: float) -> str:
    """What the unshaped samples moved by `level` are called."""
    return f"off, noise of {level:.3g}"


def noises(levels: Sequence[float]) -> dict[str, Derive]:
    """The unshaped samples moved by each of the distances."""
    return {noise_name(level): partial(_moved, level=level) for level in levels}


def _moved(
    images: dict[str, Tensor], moved: dict[str, Tensor], seeds: Sequence[int], *, level: float
) -> tuple[Tensor, Tensor]:
    distance = torch.full((len(seeds),), level)
    return noised(images[OFF], distance, seeds), distance
