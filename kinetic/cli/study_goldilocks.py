"""The command `study goldilocks`: quality and copies by energy, and the band of energies that is worth keeping."""

from contextlib import nullcontext
from typing import Any

import torch

from kinetic.advice import command
from kinetic.cli.options import parsed
from kinetic.cli.study_options import finish, looked_at, study_parser, subject_of
from kinetic.errors import KineticError
from kinetic.metrics.detection import detection
from kinetic.metrics.extractors import CHOICES
from kinetic.samples.table import SampleTable
from kinetic.studies.goldilocks import Measured, check_energies, choose, decile_rows
from kinetic.studies.goldilocks_findings import findings_of
from kinetic.studies.qualities import Gathered
from kinetic.studies.subject import SAMPLES, Subject

NUM = 1000


def study_goldilocks(args: list[str]) -> None:
    """Look at samples by deciles of their energy."""
    options = parsed(_parser(), args)
    if not 0 < options.least < 1 or options.tolerance < 0:
        raise KineticError("--least is a share in (0, 1) and --tolerance at least 0")
    subject = subject_of("goldilocks", options)
    drawing = subject.draw()
    if not subject.first:
        return
    training_set, judge, missing = looked_at(subject, options.features)
    gathered = None if judge is None else Gathered(judge)
    files = [] if gathered is None else [nullcontext(gathered.take)]
    table = drawing.collect(training_set=training_set, files=files)[SAMPLES]
    found = _measured(table, gathered)
    check_energies(found.energy)
    real = None if judge is None else judge.real
    energy = None if found.copied is None else detection(found.energy, found.copied).auroc
    rows = decile_rows(found, real)
    verdict = choose(found, real, least=options.least, tolerance=options.tolerance)
    more: dict[str, Any] = {"energy": energy, "judge": judge, "missing": missing, "command": _again(options, subject)}
    finish(subject, findings_of(subject, rows, verdict, **more))


def _parser() -> Any:
    made = study_parser("goldilocks", "Quality and copies by decile of kinetic path energy.", num=NUM)
    group = made.add_argument_group("how the band is chosen")
    group.add_argument("--least", type=float, default=0.5, metavar="S", help="share of the samples that it holds")
    group.add_argument("--tolerance", type=float, default=0.05, metavar="S", help="loss of quality, a share of fd")
    group.add_argument("--features", type=str, metavar="NAME", help=f"{CHOICES}, or none (None: pca:64)")
    return made


def _measured(table: SampleTable, gathered: Gathered | None) -> Measured:
    """The samples that are finite, as features and energies are."""
    features = None if gathered is None else torch.cat(gathered.found[SAMPLES])
    keep = table.finite if features is None else table.finite & features.isfinite().all(1).numpy()
    copied = table.columns["copied"].astype(bool)[keep] if "copied" in table.columns else None
    chosen = None if features is None else features[torch.from_numpy(keep)]
    return Measured(energy=table.columns["energy"][keep], copied=copied, features=chosen)


def _again(options: Any, subject: Subject) -> str:
    """How samples are drawn from the same."""
    source = f"--checkpoint {options.checkpoint}" if options.checkpoint else subject.run.name
    return f"{command('sample')} {source}{' --empirical' if options.empirical else ''}"
