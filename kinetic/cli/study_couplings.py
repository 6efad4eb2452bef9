"""The command `study couplings`: optimal transport against independent pairs of noise and images."""

import math
import sys
import time
from pathlib import Path
from typing import Any

from kinetic.cli.options import parsed
from kinetic.cli.sample_options import trusted
from kinetic.cli.study_options import finish, looked_at, study_parser, subject_of
from kinetic.errors import KineticError
from kinetic.flow.seeds import check_count
from kinetic.flow.solvers import FIXED
from kinetic.memorization.earlier import kept_checkpoints
from kinetic.metrics.extractors import CHOICES
from kinetic.metrics.statistics import Estimate
from kinetic.models.opening import Origin, open_checkpoint, open_run
from kinetic.plots import couplings_figure
from kinetic.report.findings import Cell, Findings, Shown, Table
from kinetic.store.runs import LAST
from kinetic.store.settings import SavedConfig
from kinetic.studies.couplings import (
    INDEPENDENT,
    MEASURES,
    OT,
    Compared,
    check_pair,
    compared,
    rows_of,
    same_images,
    series_of,
    settings_of,
    training_with,
)
from kinetic.studies.qualities import Judge
from kinetic.studies.subject import Subject
from kinetic.studies.trainings import Training, train_all
from kinetic.text import duration

NUM, STEPS, FEW = 256, 1000, "2,4,8,20,100"
FEWEST = 8  # steps that count as few
PAPER = "Tong et al. (2024, arXiv 2302.00482) report that it has straighter paths, and better samples at few steps"


def study_couplings(args: list[str]) -> None:
    """Compare two networks that differ in how noise and images were paired."""
    options = parsed(_parser(), args)
    few = _few(options.few)
    if options.empirical:
        raise KineticError("--empirical has no coupling that could be trained; leave it out")
    if options.checkpoint is not None and options.other is None:
        raise KineticError("--checkpoint goes with --other here; leave it out, or name a run of the other coupling")
    subject = subject_of("couplings", options)
    if subject.sampler.method not in FIXED:
        raise KineticError(f"few steps need a fixed grid; use one of {', '.join(FIXED)}")
    found = _given(options, subject) if options.other is not None else _trained(options, subject)
    check_pair(found)
    drawing = subject.draw(settings_of(subject, found, few), measures=MEASURES)
    if subject.first:
        training_set, judge, missing = looked_at(subject, options.features)
        if options.other is not None and training_set is not None and not same_images(found.values()):
            training_set, why = (
                None,
                "the runs were trained on different images; F_mem compares where they are the same",
            )
            missing.append(f"F_mem is left out: {why}")
        result = compared(drawing, few, training_set=training_set, judge=judge)
        finish(subject, _findings(subject, found, result, judge, [*missing, *result.missing]))


def _parser() -> Any:
    made = study_parser("couplings", "Optimal transport against independent pairs of noise and images.", num=NUM)
    group = made.add_argument_group("what is compared")
    group.add_argument("--other", type=str, metavar="RUN", help="a run of the other coupling (None: one is trained)")
    said = f"of both networks (None: {STEPS:,}, or what the run kept nearest to that, or its last step if that is less)"
    group.add_argument("--training-steps", type=int, metavar="N", help=said)
    group.add_argument("--few", type=str, default=FEW, metavar="N,N", help="numbers of steps of the solver")
    group.add_argument("--features", type=str, metavar="NAME", help=f"{CHOICES}, or none (None: pca:64)")
    return made


def _few(text: str) -> list[int]:
    try:
        found = sorted({check_count(int(one), "--few") for one in str(text).split(",")})
    except ValueError:
        found = []
    if len(found) < 2:
        raise KineticError(f"--few takes at least two different numbers of steps, as {FEW}, got {text!r:.60}")
    return found


def _given(options: Any, subject: Subject) -> dict[str, Origin]:
    """The run and another one, as they are."""
    other = open_run(options.other, root=Path(options.root), weights=options.weights, trust=trusted(options))
    return {one.coupling: one for one in (subject.origin, other)}


def _trained(options: Any, subject: Subject) -> dict[str, Origin]:
    """The run's network at a step, and one of the same recipe with the other coupling, trained if need be."""
    config = SavedConfig.read(subject.run)
    if config.at("imported") is not None or not isinstance(config.at("trainer"), dict):
        raise KineticError(f"run {subject.run.name} was not trained here; pass --other, a run of the other coupling")
    kept = {**kept_checkpoints(subject.run), int(subject.origin.identity["step"]): subject.run / LAST}
    steps = _steps(options.training_steps, kept)
    there = {subject.origin.coupling: kept[steps]} if steps in kept else {}
    folder = subject.folder / "runs"
    wanted = {name: training_with(config, name, folder, steps=steps) for name in (INDEPENDENT, OT) if name not in there}
    if subject.first:
        _train(options, subject, wanted)
    while not all(one.done() for one in wanted.values()):  # another process trains, and takes this one with it
        time.sleep(1)
    paths = {**there, **{name: one.folder / LAST for name, one in wanted.items()}}
    how: dict[str, Any] = {"weights": options.weights, "trust": trusted(options)}
    return {name: open_checkpoint(paths[name], **how) for name in (INDEPENDENT, OT)}


def _steps(asked: int | None, kept: dict[int, Path]) -> int:
    """How long both are trained: as asked, or about 1,000 steps, for which the run has kept a checkpoint."""
    return min(kept, key=lambda step: abs(step - STEPS)) if asked is None else check_count(asked, "--training-steps")


def _train(options: Any, subject: Subject, wanted: dict[str, Training]) -> None:
    """Train what is not there, and say first how long that takes: a step is taken for three passes."""
    todo = [one for one in wanted.values() if not one.done()]
    batch = SavedConfig.read(subject.run).at("data", "init_args", "batch_size", default=128)
    passes = 3 * sum(one.steps for one in todo) * (batch if isinstance(batch, int) else 128)
    if todo:
        took = duration(subject.seconds(subject.origin.field, passes))
        print(f"training {len(todo)} of {len(wanted)} networks with the other coupling: about {took}", file=sys.stderr)
    faults = train_all(list(wanted.values()), jobs=len(wanted), trust=options.trust, overwrite=options.overwrite)
    if faults:
        raise KineticError(f"the network of the other coupling could not be trained: {next(iter(faults.values()))}")


def _findings(
    subject: Subject, origins: dict[str, Origin], found: Compared, judge: Judge | None, missing: list[str]
) -> Findings:
    """Put both couplings side by side."""
    quality = {} if judge is None else {"quality": judge.text()}
    said = "Straightness, Fréchet distance and distance from the finest sample of the same seed, over steps."
    return Findings(
        title=f"Couplings of noise and images, of {subject.run.name}",
        says=[*_says(found), f"{PAPER}.", *missing],
        table=Table(
            rows=rows_of(found),
            caption=(
                "Transport energy: ½‖x(1) - x(0)‖², of a straight way. Residual: distance from that by most steps."
            ),
            shares=("F_mem", "precision", "recall"),
        ),
        protocol=subject.protocol(
            **{f"network_{name}": {**one.identity, "name": one.name} for name, one in origins.items()}, **quality
        ),
        pictures={"couplings": Shown(figure=couplings_figure(_curves(found)), alt=said, caption=said)},
        space=subject.origin.field.space,
    )


def _curves(found: Compared) -> dict[str, dict[str, list[tuple[int, float, float, float]]]]:
    names = {"straightness": "straightness", "fd": "Fréchet distance", "residual": "distance from the finest sample"}
    known = {title: series_of(found, name) for name, title in names.items()}
    return {
        title: {coupling: [(steps, *_bounds(cell)) for steps, cell in points] for coupling, points in one.items()}
        for title, one in known.items()
        if all(cell is not None for points in one.values() for _, cell in points)
    }


def _bounds(cell: Cell) -> tuple[float, float, float]:
    if isinstance(cell, Estimate):
        return cell.value, cell.low, cell.high
    return (float(cell), math.nan, math.nan) if isinstance(cell, int | float) else (math.nan,) * 3


def _says(found: Compared) -> list[str]:
    """Whether paths are straighter and few steps do better, as is published; and who copies more."""
    fine, few = max(found.few), [steps for steps in found.few if steps <= FEWEST]
    straight, energy = found.gap("straightness", fine), found.gap("energy", fine)
    said = [
        f"Optimal transport has {_word(straight, 'straighter', 'less straight')} paths: straightness differs by "
        f"{_interval(straight)} at {fine} steps, energy by {_interval(energy)}; {_agrees(straight.low > 0)}."
    ]
    gaps = {steps: gap for steps in few if (gap := found.fd_gap(steps)) is not None}
    said += [
        f"At {steps} steps its samples are {_word(gap, 'worse', 'better')}: fd differs by {_interval(gap)}; "
        f"{_agrees(gap.high < 0)}."
        for steps, gap in gaps.items()
    ]
    return [*said, *_of_copies(found, fine), "Intervals are over seeds; one training each says nothing of others."]


def _agrees(shown: bool) -> str:
    return "this agrees with what is published" if shown else "what is published is not seen here"


def _of_copies(found: Compared, fine: int) -> list[str]:
    """Whether one of them copies more, after as many training steps."""
    if any("copied" not in table.columns for table in found.tables.values()):
        return []
    gap = found.gap("copied", fine)
    ends = f"{100 * gap.value:.1f} ({100 * gap.low:.1f} to {100 * gap.high:.1f})"
    word = _word(gap, "more", "fewer")
    return [f"After as many training steps it has {word} copies: F_mem differs by {ends} points at {fine} steps."]


def _word(gap: Estimate, above: str, below: str) -> str:
    return above if gap.low > 0 else below if gap.high < 0 else "not certainly other"


def _interval(one: Estimate) -> str:
    return f"{one.value:.3g} ({one.low:.3g} to {one.high:.3g})"
