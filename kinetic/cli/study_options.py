"""The options that studies share, and the subject that they describe."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from kinetic.cli.options import add_devices, add_solver, devices_of, naming, solver_settings, typed_parser
from kinetic.cli.sample_options import add_origin, check_origin, labels_of, origin_of, trusted
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.flow.seeds import check_count, seed_range
from kinetic.memorization.training_set import TrainingSet
from kinetic.models.opening import Origin
from kinetic.report import write_report
from kinetic.report.findings import Findings, write_findings
from kinetic.report.studies import FOLDER
from kinetic.store.runs import LAST
from kinetic.studies.experiment import predictor
from kinetic.studies.qualities import Judge
from kinetic.studies.subject import Subject

NUM = 512


def study_parser(
    name: str, description: str, examples: str = "", *, num: int = NUM, command: str = "kinetic study"
) -> Any:
    """Make the parser of a study: what to follow, which samples, the solver, where to compute and write."""
    made = typed_parser(f"{command} {name}", description, examples)
    add_origin(made.add_argument_group("what to follow"))
    group = made.add_argument_group("which samples")
    group.add_argument("--num", type=int, metavar="N", default=num, help="samples, with the seeds 0 to N - 1")
    group.add_argument("--seeds", metavar="A-B", help="which seeds instead of --num, as 0-49999 or 1,5,9")
    group.add_argument("--labels", metavar="L", help="classes by name or number: cat,dog or 0,3 (None: balanced)")
    add_solver(made)
    made.add_argument("--guidance", type=float, default=1.0, metavar="W", help="classifier-free; 1 is none")
    group = made.add_argument_group("where to compute and write")
    group.add_argument("--out", metavar="DIR", help=f"folder for the results (None: RUN/{FOLDER}/{name})")
    group.add_argument("--overwrite", action="store_true", help="replace other samples that lie there")
    group.add_argument("--batch-size", type=int, metavar="N", help="samples at a time, on each device")
    add_devices(group)
    group.add_argument("--precision", default="32", type=str, help="of the network: 32, bf16 or 16")
    return made


def subject_of(name: str, options: Any) -> Subject:
    """Open what the options of `study_parser` name, for the study of that name."""
    check_origin(options)
    seeds = _seeds(options)
    with naming(options):
        sampler = Sampler(**solver_settings(options), guidance=options.guidance)
    trainer = predictor(accelerator=options.accelerator, devices=devices_of(options.devices))
    origin = origin_of(options, device=trainer.strategy.root_device)
    return Subject(
        origin=origin,
        trainer=trainer,
        sampler=sampler,
        seeds=seeds,
        folder=Path(options.out) if options.out else _folder(name, options, origin),
        labels=labels_of(options, origin.class_names),
        batch_size=None if options.batch_size is None else check_count(options.batch_size, "--batch-size"),
        precision=options.precision,
        overwrite=options.overwrite,
        trust=trusted(options),
    )


def _seeds(options: Any) -> list[int]:
    if options.seeds is None:
        return list(range(check_count(options.num, "--num")))
    return seed_range(options.seeds)


def _folder(name: str, options: Any, origin: Origin) -> Path:
    """RUN/studies/NAME; what is studied is in the name where it is not the run's last network."""
    home = origin.run or origin.home
    if options.empirical:
        name += "-empirical"
    elif options.checkpoint is not None and (origin.run is None or Path(options.checkpoint).resolve() != home / LAST):
        name += f"-{Path(options.checkpoint).stem}"
    return home / FOLDER / name


class Looked(NamedTuple):
    """What samples are compared with, as far as it is at hand, and a line on everything that is not."""

    training_set: TrainingSet | None
    judge: Judge | None
    missing: list[str]


def looked_at(subject: Subject, features: str | None) -> Looked:
    """Open the training set, and what judges quality in `features`, "none" for nothing; without data the rest stays."""
    missing: list[str] = []
    training_set = _or_none("F_mem", lambda: subject.training_set, missing)
    if features == "none":
        return Looked(training_set, None, missing)
    return Looked(training_set, _or_none("quality", lambda: subject.judge(features), missing), missing)


def _or_none(what: str, make: Any, missing: list[str]) -> Any:
    try:
        return make()
    except (KineticError, OSError) as error:
        missing.append(f"{what} is left out: {error}")
        return None


def finish(subject: Subject, findings: Findings) -> None:
    """Write what a study found, print it, and say where it is."""
    leave(subject.folder, findings, subject.origin.run)


def leave(folder: Path, findings: Findings, run: Path | None) -> None:
    """Write what was found into a folder, print it, and say where it is; the report of its run lists it."""
    page = write_findings(folder, findings)
    if run is not None and (run / "report.html").is_file() and run.resolve() in page.resolve().parents:
        write_report(run)
    print(f"\n{findings.title}\n\n{findings.table.text()}\n")
    print("\n".join(findings.says))
    there, names = os.path.relpath(page.parent), "".join(f", {name}.png" for name in findings.pictures)
    print(f"\nLook:  {there}/{page.name}{names}; the numbers are in {there}/table.csv and table.md")
