"""What tuning found: the best shaping on seeds that it was not chosen on, against the best controls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kinetic.metrics.statistics import Estimate
from kinetic.plots import pareto_figure
from kinetic.report.findings import Cell, Findings, Shown, Table
from kinetic.studies.grids import OFF
from kinetic.studies.kts import QUIET, SHARES, Shaped, fall, numbers_of
from kinetic.studies.qualities import Judge, differences
from kinetic.studies.subject import Subject
from kinetic.studies.tune import Goal, Ranked, Score
from kinetic.studies.verdicts import fd_of, point_of
from kinetic.text import percent

BETTER, WORSE, SAME = "better", "worse", "not told apart"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was chosen, and how it fares on other seeds.

    Attributes:
        name: of the shaping.
        goal: what it was chosen for.
        found: of it and of the controls, on seeds that none of them was chosen on.
    """

    name: str
    goal: Goal
    found: Shaped

    @property
    def controls(self) -> list[str]:
        """Everything that the shaping has to beat, the unshaped flow included."""
        return [OFF, *self.found.controls]

    def score(self, name: str) -> Score:
        """F_mem and Fréchet distance of a row."""
        row = self.found.row(name)
        return Score(row.f_mem, fd_of(row))

    def allowed(self, name: str) -> bool:
        """Whether a row meets the bound of the goal."""
        return self.goal.allows(self.score(name), self.score(OFF))

    def less(self, control: str) -> Estimate:
        """By how much the shaping is below a control in what is wanted least, over the same seeds."""
        if self.goal.kind == "copies":
            found = fall(self.found.tables, control, self.name)
            return Estimate(math.nan, math.nan, math.nan) if found is None else found
        assert self.found.figures is not None  # tuning needs quality
        one = differences(self.found.figures[control], self.found.figures[self.name])["fd"]
        return Estimate(one.difference, one.low, one.high)

    def against(self, control: str) -> str:
        """Whether the shaping does better than a control: by the bound first, then by what is wanted."""
        own, theirs = self.allowed(self.name), self.allowed(control)
        if own != theirs:
            return BETTER if own else WORSE
        less = self.less(control)
        return BETTER if less.low > 0 else WORSE if less.high < 0 else SAME

    @property
    def beats_controls(self) -> bool:
        """Whether the shaping meets the bound, and does certainly better than every control."""
        return self.allowed(self.name) and all(self.against(name) == BETTER for name in self.controls)


def findings_of(
    subject: Subject, tuned: Tuned, searches: dict[str, Ranked], *, judge: Judge, budget: int, written: str
) -> Findings:
    """Put together the report on other seeds and the tables of the searches; `written` says how to use it."""
    rows = [_row(tuned, name) for name in (tuned.name, *tuned.controls)]
    points = [point_of(row, control=row.setting != tuned.name) for row in tuned.found.rows]
    shares = (*SHARES, "above_tuned") if tuned.goal.kind == "copies" else SHARES
    said = "Copies against quality of the tuned shaping and of its controls, on seeds that none was chosen on."
    return Findings(
        title=f"Shaping tuned for {subject.origin.name}",
        says=[*_says(tuned, searches), written],
        table=Table(
            rows=rows,
            caption=f"Goal: {tuned.goal.text}.",
            shares=shares,
            quiet=(*QUIET, "evaluations", "late_fraction"),
        ),
        more={name: _search(name, found, tuned.goal) for name, found in searches.items()},
        protocol=subject.protocol(
            goal=tuned.goal.text,
            budget=budget,
            spent={name: found.spent for name, found in searches.items()},
            searched_on=f"seeds from {max(subject.seeds) + 1} on",
            quality=judge.text(),
        ),
        pictures={"pareto": Shown(figure=pareto_figure(points), alt=said, caption=said)},
        space=subject.origin.field.space,
    )


def _row(tuned: Tuned, name: str) -> dict[str, Cell]:
    cells: dict[str, Cell] = {"setting": name, **numbers_of(tuned.found.row(name))}
    cells["bound"] = "met" if tuned.allowed(name) else "missed"
    if name != tuned.name:
        cells |= {"above_tuned": tuned.less(name), "tuned_is": tuned.against(name)}
    return cells


def _search(name: str, found: Ranked, goal: Goal) -> Table:
    rows = [
        {
            "setting": one,
            "seeds": found.seeds[one],
            "F_mem": score.f_mem,
            "fd": score.fd,
            "bound": "met" if goal.allows(score, found.off) else "missed",
        }
        for one, score in found.scores.items()
    ]
    caption = f"Search of {name}, {found.spent:,} evaluations: those that came furthest first."
    return Table(rows=rows, caption=caption, shares=("F_mem",))


def _says(tuned: Tuned, searches: dict[str, Ranked]) -> list[str]:
    """Whether tuning is worth anything, plainly."""
    own, off = tuned.score(tuned.name), tuned.score(OFF)
    said = [
        f"Best shaping: {tuned.name}. On other seeds F_mem {percent(own.f_mem)} (unshaped {percent(off.f_mem)}), fd "
        f"{own.fd:.3g} ({off.fd:.3g}); the bound is {'met' if tuned.allowed(tuned.name) else 'missed'}."
    ]
    if tuned.beats_controls:
        return [*said, "No control does as well at equal cost."]
    return [*said, *_beaten_by(tuned)]


def _beaten_by(tuned: Tuned) -> list[str]:
    """The controls that do better or as well."""
    groups = {WORSE: "do better", SAME: "are not told apart from it"}
    named = {how: [name for name in tuned.controls if tuned.against(name) == how] for how in groups}
    said = [f"These {groups[how]}: {'; '.join(_scored(tuned, names))}." for how, names in named.items() if names]
    return ["It does not beat the controls.", *said]


def _scored(tuned: Tuned, names: Sequence[str]) -> list[str]:
    scores = {name: tuned.score(name) for name in names}
    return [f"{name} (F_mem {percent(one.f_mem)}, fd {one.fd:.3g})" for name, one in scores.items()]
