"""The command `study onset`: when a recipe generates and when it begins to copy, over sizes and widths."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kinetic.cli.options import parsed, typed_parser
from kinetic.cli.study_options import leave
from kinetic.errors import KineticError
from kinetic.flow.seeds import check_count
from kinetic.metrics.extractors import CHOICES
from kinetic.metrics.scaling import TOLERANCE
from kinetic.models.opening import open_run
from kinetic.plots import OnsetCurves, onset_figure
from kinetic.report.findings import NOTE, Cell, Findings, Shown, Table, attempt
from kinetic.report.studies import FOLDER
from kinetic.store.runs import find_run
from kinetic.store.settings import SavedConfig
from kinetic.studies.onset import (
    Setting,
    Times,
    features_for,
    law_of,
    seconds_of,
    settings_of,
    times_of,
    training_of,
)
from kinetic.studies.subject import seconds_a_batch
from kinetic.studies.trainings import Training, train_all
from kinetic.text import duration
from kinetic.trust import Trust

BATCH = 64  # samples of the pass that is timed
PAPER = "Bonnaire et al. (2025, arXiv 2505.17638) find tau_gen independent of n, and tau_mem to grow linearly with it"


def study_onset(args: list[str]) -> None:
    """Train the run's recipe at several sizes and widths, and see when it begins to copy."""
    options = parsed(_parser(), args)
    settings = settings_of(_sizes(options.sizes), _widths(options.widths))
    run = find_run(Path(options.root), options.run)
    folder = Path(options.out) if options.out else run / FOLDER / "onset"
    most = os.cpu_count() or 1 if options.jobs is None else options.jobs
    jobs = min(check_count(most, "--jobs"), len(settings))
    how = {
        "steps": check_count(options.training_steps, "--training-steps"),
        "first": check_count(options.first, "--first"),
        "patience": check_count(options.patience, "--patience"),
        "per_decade": options.per_decade,
    }
    trust = Trust().including(tuple(options.trust))
    field = open_run(options.run, root=options.root, trust=trust).field
    how["features"] = options.features or features_for(field.shape or (), [one.size for one in settings])
    config = SavedConfig.read(run)
    if config.at("imported") is not None or not isinstance(config.at("trainer"), dict):
        raise KineticError(f"run {run.name} was not trained here, so its recipe is not known; study one that was")
    trainings = {one: training_of(config, one, folder / "runs", **how) for one in settings}
    todo = [setting for setting, one in trainings.items() if not one.done(options.patience)]
    validations = 1 + math.ceil(options.per_decade * max(0.0, math.log10(options.training_steps / options.first)))
    each = seconds_a_batch(field, BATCH) / BATCH
    took = seconds_of(config, todo, each=each, steps=options.training_steps, validations=validations) / max(jobs, 1)
    many = f"{len(todo)} of {len(trainings)} trainings of {options.training_steps:,} steps at most, {jobs} at a time"
    print(f"{many}: at most about {duration(took)}", file=sys.stderr)
    given = {"jobs": jobs, "patience": options.patience, "trust": options.trust, "overwrite": options.overwrite}
    faults = train_all(list(trainings.values()), **given)
    leave(folder, _findings(run, config, trainings, faults, how), run)


def _parser() -> Any:
    made = typed_parser("kinetic study onset", "When a recipe begins to copy, over sizes and widths.", "")
    made.add_argument("run", nargs="?", metavar="RUN", help="a run, by name or folder (None: the newest)")
    made.add_argument("--root", default="runs", metavar="DIR", help="folder of all runs")
    made.add_argument("--trust", action="append", default=[], metavar="NAME", help="what the run may name besides")
    made.add_argument("--sizes", default="32,64,128", metavar="N,N", help="training images")
    made.add_argument("--widths", default="1,0.5", metavar="W,W", help="of the network; all but the first at one size")
    made.add_argument("--training-steps", type=int, default=2000, metavar="N", help="of each training, at most")
    made.add_argument("--first", type=int, default=25, metavar="N", help="step of the first validation")
    made.add_argument("--per-decade", type=float, default=8.0, metavar="N", help="validations a tenfold of steps")
    made.add_argument("--patience", type=int, default=1, metavar="N", help="validations after the onset")
    made.add_argument("--features", type=str, metavar="NAME", help=f"of fd: {CHOICES} (None: pixels, or pca of many)")
    made.add_argument("--jobs", type=int, metavar="N", help="trainings side by side (None: as many as cores)")
    made.add_argument("--out", metavar="DIR", help=f"folder for the results (None: RUN/{FOLDER}/onset)")
    made.add_argument("--overwrite", action="store_true", help="replace trainings with other settings")
    return made


def _sizes(text: str) -> list[int]:
    try:
        found = [int(one) for one in str(text).split(",")]
    except ValueError:
        found = [0]
    if min(found) < 2 or len(set(found)) < len(found):
        raise KineticError(f"--sizes takes different numbers of at least 2, as 32,64,128, got {text!r:.60}")
    return sorted(found)


def _widths(text: str) -> list[float]:
    try:
        found = [float(one) for one in str(text).split(",")]
    except ValueError:
        found = [0.0]
    if not all(0.05 <= one <= 20 for one in found) or len(set(found)) < len(found):
        raise KineticError(f"--widths takes different factors of 0.05 to 20, as 1,0.5, got {text!r:.60}")
    return found


def _findings(
    run: Path, config: SavedConfig, trainings: dict[Setting, Training], faults: dict[Path, str], how: dict[str, Any]
) -> Findings:
    """Read all trainings, and put them into a table, a picture and sentences."""
    found: list[Times] = []
    rows: list[dict[str, Cell]] = []
    for setting, training in trainings.items():

        def cells(setting: Setting = setting, training: Training = training) -> dict[str, Cell]:
            if training.folder in faults:
                raise KineticError(faults[training.folder])
            found.append(times_of(training, setting))
            return _cells(found[-1])

        rows.append(attempt({"training": setting.name, "n": setting.size, "width": setting.width}, cells))
    width = next(iter(trainings)).width
    law = law_of(found, "tau_mem", width=width)
    drawn = onset_figure(_curves(found, width), fit=None if law is None else (law.factor, law.exponent.value))
    said = "F_mem and Fréchet distance over steps, and tau_mem (down to the validation before) and tau_gen over n."
    tolerance = f"first step with fd within {TOLERANCE:.0%} of its least"
    return Findings(
        title=f"Onset of copying over training-set sizes, recipe of {run.name}",
        says=_says(found, width, failed=sum(NOTE in row for row in rows)),
        table=Table(
            rows=rows,
            caption="Trained until after the onset; tau_mem lies between step before and itself.",
            shares=("last_f_mem",),
        ),
        protocol={
            "recipe": run.name,
            **how,
            "tau_gen": tolerance,
            "tau_mem": "first validation whose F_mem interval lies above that of held-out images",
            "samples": config.at("model", "samples", "num"),
            "sampler": config.at("model", "sampler"),
            "coupling": config.at("model", "coupling"),
            "seed": config.at("seed_everything"),
        },
        pictures={"onset": Shown(figure=drawn, alt=said, caption=said)} if found else {},
    )


def _cells(one: Times) -> dict[str, Cell]:
    """A row of the table."""
    return {
        "parameters": one.parameters,
        "tau_gen": one.tau_gen,
        "tau_mem": one.tau_mem,
        "step_before": one.before,
        "tau_energy": one.tau_energy,
        "last_step": one.last,
        "last_f_mem": one.f_mem[one.last],
        "least_fd": min(one.fd.values(), default=None),
        **({NOTE: f"no onset by step {one.last:,}"} if one.tau_mem is None else {}),
    }


def _curves(found: Sequence[Times], width: float) -> list[OnsetCurves]:
    return [
        OnsetCurves(
            name=f"n = {one.setting.size}" + ("" if one.setting.width == width else f", width {one.setting.width:g}"),
            size=one.setting.size,
            f_mem=one.f_mem,
            fd=one.fd,
            tau_gen=one.tau_gen,
            tau_mem=one.tau_mem,
            before=one.before,
            varied=one.setting.width == width,
        )
        for one in found
    ]


def _says(found: Sequence[Times], width: float, *, failed: int) -> list[str]:
    """What follows, beside what is published."""
    said = []
    for name, expected in (("tau_mem", 1.0), ("tau_gen", 0.0)):
        law = law_of(found, name, width=width)
        if law is None:
            said.append(f"{name} came at fewer than two sizes, so how it grows with n is not known.")
            continue
        low, high = law.exponent.low, law.exponent.high
        certain = low <= expected <= high if law.points > 2 else None
        agrees = {
            True: "the interval does not exclude it",
            False: "this does not agree",
            None: "two points cannot tell",
        }[certain]
        interval = f" ({low:.2f} to {high:.2f})" if law.points > 2 else ""
        said.append(
            f"{name} grows as n to the power {law.exponent.value:.2f}{interval}, from {law.points} sizes; expected is "
            f"{expected:g}: {agrees}."
        )
    censored = sum(one.tau_mem is None for one in found)
    said += [f"{censored} trainings had no onset by their last step and are left out of the fit."] if censored else []
    said += [f"{failed - censored} trainings failed; see their notes."] if failed > censored else []
    base = [one for one in found if one.setting.width == width]
    for one in found:
        same = [b for b in base if b.setting.size == one.setting.size and one.setting.width != width]
        for b in same if one.tau_mem is not None else ():
            if b.tau_mem is not None:
                said.append(
                    f"At width {one.setting.width:g} tau_mem is step {one.tau_mem}, at {width:g} step {b.tau_mem}."
                )
    early = [one.setting.name for one in found if one.tau_gen is not None and one.tau_gen == min(one.fd)]
    said += [f"tau_gen is that of the first validation, or earlier, at {'; '.join(early)}."] if early else []
    return [*said, f"{PAPER}; wider networks copy earlier. An interval from few sizes is wide."]
