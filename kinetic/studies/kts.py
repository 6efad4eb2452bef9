"""What kinetic trajectory shaping does to quality and copies, and how much of that leftover noise does as well.

Every shaped setting stands beside the unshaped flow of the same solver, the same samples moved as far by noise, the
flow stopped early, and earlier checkpoints. Differences are paired by seed.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.memorization.cleaning import Cleaned
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.detection import mean_estimate
from kinetic.metrics.statistics import Estimate
from kinetic.plots import AxisPoint, Point
from kinetic.report.findings import Cell
from kinetic.samples.table import SampleTable
from kinetic.studies.compare import Figure, Row, rows_of
from kinetic.studies.controls import NOISE_AS, checkpoint_controls, divided_controls, noise_controls, stop_controls
from kinetic.studies.experiment import Derive, Take
from kinetic.studies.grids import OFF, Group, values_of
from kinetic.studies.qualities import Figures, Gathered, Judge, judged_figures, with_quality
from kinetic.studies.setting import Setting
from kinetic.studies.subject import Drawing, Subject
from kinetic.studies.verdicts import fd_of, judged, point_of

QUIET = ("samples", "field_energy", "fd_from_off")  # columns that are written, but not shown
SHARES = (  # columns in percent
    "F_mem",
    "F_mem_cleaned",
    "precision",
    "recall",
    "late_fraction",
    "fall_in_F_mem",
    "fall_by_equal_noise",
    "more_than_noise",
)


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """What was found of the settings of one solver.

    Attributes:
        group: the settings.
        rows: of all that was drawn or derived, controls too, with quality and verdicts.
        tables: of the same.
        figures: of quality, of the same, over resampled seeds; None where there are none.
        left_out: why there is no quality; empty where there is.
    """

    group: Group
    rows: list[Row]
    tables: Mapping[str, SampleTable]
    figures: Figures | None = None
    left_out: str = ""

    @property
    def controls(self) -> list[str]:
        """Names of the rows that are controls."""
        return [row.setting for row in self.rows if row.setting not in self.group.settings]

    def row(self, name: str) -> Row:
        """The row of a setting."""
        return next(row for row in self.rows if row.setting == name)


def draw_group(subject: Subject, group: Group, *, into: str, checkpoints: bool) -> Drawing:
    """Draw a group and the controls that have to be drawn; every process calls this."""
    off = group.settings[OFF]
    settings: dict[str, Setting] = {name: Setting(sampler=sampler) for name, sampler in group.settings.items()}
    settings |= stop_controls(off)
    if checkpoints:
        weights = subject.origin.identity.get("weights")
        settings |= checkpoint_controls(subject.origin, off, weights=weights, trust=subject.trust)
    return subject.draw(settings, into=into)


def measured(
    drawing: Drawing,
    group: Group,
    *,
    training_set: TrainingSet | None,
    judge: Judge | None,
    cleaned: Cleaned | None = None,
    derived: Mapping[str, Derive] | None = None,
) -> Shaped:
    """Go through what was drawn: copies, quality, controls, `derived` ones too, and verdicts."""
    settings = drawing.job.settings
    derived = {**divided_controls(settings), **noise_controls(list(group.settings)), **(derived or {})}
    gathered = None if judge is None else Gathered(judge)
    files: list[AbstractContextManager[Take]] = [] if gathered is None else [nullcontext(gathered.take)]
    tables = drawing.collect(training_set=training_set, cleaned=cleaned, derived=derived, files=files)
    rows, left_out, figures = rows_of(tables), "", None
    try:
        figures = None if gathered is None else judged_figures(gathered.features(), gathered.judge.real)
    except KineticError as error:
        left_out = str(error)
    rows = rows if figures is None else with_quality(rows, figures)
    controls = [row.setting for row in rows if row.setting not in group.settings]
    return Shaped(group=group, rows=judged(rows, controls), tables=tables, figures=figures, left_out=left_out)


def shaping_rows(found: Shaped) -> list[dict[str, Cell]]:
    """A row a setting, the unshaped first, with what equal noise does beside it."""
    return [_shaping_row(found, name, sampler) for name, sampler in found.group.settings.items()]


def _shaping_row(found: Shaped, name: str, sampler: Sampler) -> dict[str, Cell]:
    row = found.row(name)
    values = values_of(sampler)
    cells: dict[str, Cell] = {"setting": name, "solver": found.group.name}
    cells |= {axis: values[axis] for axis in ("alpha", "beta", "tau", "launch", "landing")}
    cells |= numbers_of(row)
    if name == OFF:
        return cells
    noise = f"{OFF}{NOISE_AS} {name}"
    cells |= {"fall_in_F_mem": fall(found.tables, OFF, name), "fall_by_equal_noise": fall(found.tables, OFF, noise)}
    return {**cells, "more_than_noise": fall(found.tables, noise, name)}


def numbers_of(row: Row) -> dict[str, Cell]:
    """What is known of a setting or a control, as cells."""
    copies = {} if math.isnan(row.f_mem) else {"F_mem": Estimate(row.f_mem, row.low, row.high)}
    more = {name.replace("f_mem", "F_mem"): _cell(one) for name, one in row.more.items() if not one.quiet}
    names = ("energy", "field_energy", "late_fraction", "residual")
    return {"samples": row.n, **copies, **more, **{name: getattr(row, name) for name in names}}


def _cell(one: Figure) -> Cell:
    return one.value if math.isnan(one.low) else Estimate(one.value, one.low, one.high)


def verdict_rows(found: Shaped) -> list[dict[str, Cell]]:
    """A row a shaped setting, with what the controls say of it."""
    rows = [found.row(name) for name in found.group.settings if name != OFF]
    return [{"setting": row.setting, "solver": found.group.name, "verdict": row.verdict} for row in rows if row.verdict]


def control_rows(found: Shaped) -> list[dict[str, Cell]]:
    """A row a control."""
    return [{"control": name, "solver": found.group.name, **numbers_of(found.row(name))} for name in found.controls]


def fall(tables: Mapping[str, SampleTable], before: str, after: str) -> Estimate | None:
    """By how much F_mem of `after` lies below that of `before`, over the same seeds; None where it was not looked for.

    The interval resamples seeds, both sides together.
    """
    columns = [tables[name].columns.get("copied") for name in (before, after)]
    if columns[0] is None or columns[1] is None:
        return None
    return mean_estimate(columns[0] - columns[1])


def points_of(found: Shaped) -> list[Point]:
    """Where settings and controls lie in copies and quality; noise stands in the table alone."""
    kept = [row for row in found.rows if not row.setting.startswith(f"{OFF}{NOISE_AS}")]
    return [point_of(row, control=row.setting not in found.group.settings) for row in kept if "fd" in row.more]


def axis_of(found: Shaped, name: str, base: Sampler) -> list[AxisPoint]:
    """What happens along one axis of numbers while all others stay as in `base`, by rising value."""
    fixed = {axis: value for axis, value in values_of(base).items() if axis != name}
    shaped = {setting: values_of(sampler) for setting, sampler in found.group.settings.items() if setting != OFF}
    along = [(v[name], setting) for setting, v in shaped.items() if fixed.items() <= v.items()]
    return [_axis_point(found, value, setting) for value, setting in sorted(along)]


def _axis_point(found: Shaped, value: float, setting: str) -> AxisPoint:
    row = found.row(setting)
    noise = found.row(f"{OFF}{NOISE_AS} {setting}")
    return AxisPoint(value, row.f_mem, row.low, row.high, noise.f_mem, fd_of(row))
