"""The command `study balance`: what samples spend against what real images bear out."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from kinetic.cli.options import parsed
from kinetic.cli.study_options import finish, study_parser, subject_of
from kinetic.errors import KineticError
from kinetic.flow.seeds import check_count
from kinetic.memorization.balance import BINS, Balance
from kinetic.metrics.statistics import Estimate
from kinetic.plots import BalanceCurves, balance_over_time, endpoints_figure
from kinetic.report.findings import Cell, Findings, Shown, Table
from kinetic.samples.balance import table_rows
from kinetic.studies.balance import balance_of, check_balance
from kinetic.studies.plane import Plane, is_plane, plane_of
from kinetic.studies.subject import SAMPLES, Subject
from kinetic.text import short


def study_balance(args: list[str]) -> None:
    """Balance what samples spend with real images."""
    options = parsed(_parser(), args)
    if not 1 <= options.bins <= 100:
        raise KineticError(f"--bins must be 1 to 100, got {options.bins}")
    subject = subject_of("balance", options)
    check_balance(subject.origin, subject.data, subject.sampler)
    images = check_count(options.images, "--images")
    drawing = subject.draw()
    if not subject.first:
        return
    table = drawing.collect()[SAMPLES]
    found = balance_of(subject.origin, subject.data, table, images=images, bins=options.bins, device=subject.device)
    plane = plane_of(subject.origin, subject.data, device=subject.device) if is_plane(subject.data.shape) else None
    finish(subject, findings_of(subject, found, plane, images=options.images))


def _parser() -> Any:
    made = study_parser("balance", "Balance what samples spend with what real images bear out.", num=256)
    group = made.add_argument_group("how much to look at")
    group.add_argument(
        "--images",
        type=int,
        default=1024,
        metavar="N",
        help="held-out and training images at most; fewer are taken several times",
    )
    group.add_argument("--bins", type=int, default=BINS, metavar="N", help="of the time from 0 to 1")
    return made


def findings_of(subject: Subject, found: Balance, plane: Plane | None, *, images: int) -> Findings:
    """Put the balance into tables and pictures: all times, each class, and over t."""
    rows = [_row("all", found), *(_row(f"class {label}", one) for label, one in found.classes.items())]
    name = Path(subject.origin.name.split(" ")[0]).name
    curves = ("t", "power", "conditional", "held_out", "train", "excess_low", "excess_high")
    figure = balance_over_time({name: BalanceCurves(*(np.asarray(found.profile[one]) for one in curves))})
    said = "Power of samples, and balances of held-out and training images, over t."
    pictures = {"balance": Shown(figure=figure, alt=said, caption=said)}
    if plane is not None:
        pictures["field"] = _field(name, plane)
    return Findings(
        title=f"Energy balance of {subject.origin.name}",
        says=_says(found),
        table=Table(rows=rows, caption="Spent: mean energy of samples. A: energy of straight lines to the images."),
        more={"over_t": Table(rows=_over_time(found), caption="Mean power in each bin of t.")},
        protocol=subject.protocol(images=images),
        pictures=pictures,
        space=subject.origin.field.space,
    )


def _row(name: str, found: Balance) -> dict[str, Cell]:
    return {
        "of": name,
        "spent": found.power,
        "A": found.conditional,
        "held_out": found.held_out,
        "training": math.nan if found.train is None else found.train,
        "excess": Estimate(found.excess, found.excess_low, found.excess_high),
        "training_less_held_out": Estimate(found.gap, found.gap_low, found.gap_high),
    }


def _over_time(found: Balance) -> list[dict[str, Cell]]:
    columns = table_rows(found)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{n: v for n, v in row.items() if n != "label"} for row in rows if row["t"] is not None]


def _says(found: Balance) -> list[str]:
    """What the balance says in a sentence or two."""
    side = "beyond" if found.excess_low > 0 else "less than" if found.excess_high < 0 else "not certainly beyond"
    excess = f"excess {short(found.excess)} ({short(found.excess_low)} to {short(found.excess_high)})"
    said = [f"Samples spend {short(found.power)}, {side} what held-out images bear out: {excess}."]
    if found.since is not None:
        said.append(f"They are beyond held-out images from t = {found.since:.2g} on.")
    return said


def _field(name: str, found: Plane) -> Shown:
    """Where the field of points leads, beside what is best for training and for held-out points."""
    words = {
        "followed": name,
        "training": "closed form of the training points",
        "held-out": "closed form of held-out points",
    }
    ends = {words[one]: points for one, points in found.endpoints.items()}
    near = {words[one]: found.distances(one) for one in found.endpoints}
    figure = endpoints_figure(found.times, found.places, ends, found.training, distances=near)
    said = "Where the field leads from points on the way, beside the closed forms of training and of held-out points."
    return Shown(figure=figure, alt=said, caption=said)
