"""What a study of shaping found, in tables, pictures and words."""

import math
from collections.abc import Sequence

from kinetic.flow.sampling import Sampler
from kinetic.metrics.statistics import Estimate
from kinetic.plots import axes_figure, pareto_figure
from kinetic.report.findings import Cell, Findings, Shown, Table
from kinetic.studies.controls import CHECKPOINT
from kinetic.studies.grids import OFF, shaping_name
from kinetic.studies.kts import QUIET, SHARES, Shaped, axis_of, control_rows, points_of, shaping_rows, verdict_rows
from kinetic.studies.qualities import Judge
from kinetic.studies.subject import Subject
from kinetic.studies.verdicts import fd_of
from kinetic.text import percent

AXES = ("alpha", "beta", "tau")  # of numbers, which are drawn
PAPER = (  # Li et al. 2026, arXiv 2602.07928: CelebA 32x32 gray, 1,024 training images
    "The paper has, on 1,024 gray faces of CelebA: F_mem 37.3 % and FID 16.7 unshaped, 31.2 % and 14.4 balanced, "
    "36.8 % and 11.3 with the launch alone, 19.4 % and 86.6 with the landing alone."
)


def findings_of(
    subject: Subject, base: Sampler, found: Sequence[Shaped], *, judge: Judge | None, missing: Sequence[str]
) -> Findings:
    """Put together what was found of the settings of every solver; the first has the base setting."""
    rows = [row for one in found for row in shaping_rows(one)]
    return Findings(
        title=f"Kinetic trajectory shaping of {subject.origin.name}",
        says=[*_says(found[0], base), *missing, *dict.fromkeys(one.left_out for one in found if one.left_out)],
        table=Table(
            rows=rows,
            caption=(
                "Every setting on the same seeds. Residual: mean distance from the unshaped sample. "
                "fall by equal noise: what the unshaped samples lose in F_mem when noise moves them as far."
            ),
            shares=SHARES,
            quiet=(
                "samples",
                "field_energy",
                "fd_from_off",
                "launch",
                "landing",
                "alpha",
                "beta",
                "tau",
                "evaluations",
            ),
        ),
        more={
            "controls": Table(
                rows=[row for one in found for row in control_rows(one)],
                caption="What a setting has to beat.",
                shares=SHARES,
                quiet=QUIET,
            ),
            "verdicts": Table(
                rows=[row for one in found for row in verdict_rows(one)],
                caption="Whether a control moves samples no farther and has as few copies, or a smaller fd.",
            ),
        },
        protocol=subject.protocol(**({} if judge is None else {"quality": judge.text()})),
        pictures=_pictures(found[0], base),
        space=subject.origin.field.space,
    )


def _pictures(found: Shaped, base: Sampler) -> dict[str, Shown]:
    off = found.row(OFF)
    axes = {name: axis_of(found, name, base) for name in AXES}
    shown = {}
    if not math.isnan(off.f_mem):
        said = "F_mem and Fréchet distance along each axis of shaping, with what equal noise does to F_mem."
        shown["axes"] = Shown(figure=axes_figure(axes, off=(off.f_mem, fd_of(off))), alt=said, caption=said)
    if points := points_of(found):
        said = "Copies against quality, settings and controls; the front is what no other one beats in both."
        shown["pareto"] = Shown(figure=pareto_figure(points), alt=said, caption=said)
        near = [point for point in points if not point.name.startswith(CHECKPOINT)]
        said = "The same without earlier checkpoints."
        shown["pareto_near"] = Shown(figure=pareto_figure(near), alt=said, caption=said)
    return shown


def _says(found: Shaped, base: Sampler) -> list[str]:
    """What shaping does, how much of it is more than noise, and which settings no control beats."""
    rows = {str(row["setting"]): row for row in shaping_rows(found)}
    off, name = found.row(OFF), shaping_name(base.kts)
    if math.isnan(off.f_mem):
        return ["Copies were not looked for, so nothing is said of memorisation."]
    kept = [_beyond_noise(one, row) for one, row in rows.items() if one != OFF]
    said = [
        _fall(name, rows[name], off.f_mem),
        _many("certainly have fewer copies than noise that moves samples as far", kept),
    ]
    return [*said, *_beaten(found), PAPER]


def _fall(name: str, row: dict[str, Cell], before: float) -> str:
    """How far F_mem falls under the base setting, and how far by noise alone."""
    fall, noise, more = (row[one] for one in ("fall_in_F_mem", "fall_by_equal_noise", "more_than_noise"))
    assert isinstance(more, Estimate)  # where F_mem is known
    certain = "more than noise" if more.low > 0 else "less than noise" if more.high < 0 else "not told apart from noise"
    return (
        f"Under {name} F_mem falls by {_points(fall)} points from {percent(before)}; the same samples unshaped and "
        f"moved as far by noise lose {_points(noise)}: {certain}."
    )


def _points(one: Cell) -> str:
    assert isinstance(one, Estimate)
    return f"{100 * one.value:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def _beyond_noise(name: str, row: dict[str, Cell]) -> str:
    more = row["more_than_noise"]
    return name if isinstance(more, Estimate) and more.low > 0 else ""


def _many(what: str, names: Sequence[str]) -> str:
    kept = [name for name in names if name]
    listed = f": {', '.join(kept)}" if kept else ""
    return f"{len(kept)} of {len(names)} settings {what}{listed}."


def _beaten(found: Shaped) -> list[str]:
    """Which settings no control beats in both copies and Fréchet distance."""
    shaped = [found.row(name) for name in found.group.settings if name != OFF]
    if all(math.isnan(fd_of(row)) for row in shaped):
        return []
    kept = [row.setting if "no control has both" in row.verdict else "" for row in shaped]
    return [
        _many("are beaten by no control in both copies and Fréchet distance", kept).replace(" (95 % intervals)", "")
    ]
