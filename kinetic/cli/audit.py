"""The command `audit`: which samples are suspected copies, with or without the training data."""

from pathlib import Path
from typing import Any

from kinetic.cli.audit_results import SCORE, advice_text, audit_text, write_audit
from kinetic.cli.options import add_devices, add_solver, devices_of, naming, parsed, solver_settings, typed_parser
from kinetic.cli.quiet import quiet
from kinetic.cli.sample_options import add_origin, check_origin, origin_of, trusted
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.flow.seeds import check_count, seed_range
from kinetic.memorization.copy_score import CopyScore
from kinetic.memorization.earlier import BEFORE_ONSET, earlier_checkpoint
from kinetic.memorization.training_set import open_training_set
from kinetic.models.opening import Origin, open_checkpoint
from kinetic.store.plain import read_json
from kinetic.studies.audit import audit as audited
from kinetic.studies.audit import job_of
from kinetic.studies.experiment import draw_parts, predictor

EXAMPLES = """examples:
  kinetic audit my-run                          the most suspicious samples; no training data is read
  kinetic audit other-run --verify              against its training data; fits a copy score for other runs
  kinetic audit my-run --fit other-run          suspicion as a probability, and an estimate of F_mem"""
FOLDER = "audit"


def audit(args: list[str]) -> None:
    """Audit a run: `[RUN] [--before ...] [--fit OTHER] [--verify] ...`; --help lists the options."""
    quiet()
    options = parsed(_parser(), args)
    check_origin(options)
    trainer = predictor(accelerator=options.accelerator, devices=devices_of(options.devices))
    device = trainer.strategy.root_device
    origin = origin_of(options, device=device)
    before, score = _before(options, origin), _fitted(options)
    data = open_data(_run_of(origin), trusted(options)) if options.verify else None
    training = None if data is None else open_training_set(_run_of(origin), data=data, device=device)
    images = check_count(options.images, "--images")
    folder = Path(options.out) if options.out else (origin.run or origin.home) / FOLDER
    seeds = seed_range(options.seeds) if options.seeds else list(range(check_count(options.num, "--num")))
    with naming(options):
        job = job_of(origin, Sampler(**solver_settings(options)), seeds=seeds, folder=folder)
    plan = draw_parts(job, trainer, overwrite=options.overwrite)
    if not trainer.is_global_zero:
        return
    field = None if before is None else before.field
    more = {"training_set": training, "data": data, "images": images, "device": device}
    found = audited(job, plan, before=field, score=score, **more)  # type: ignore[arg-type]
    write_audit(folder, found, origin, before, training)
    print(audit_text(found, origin, before))
    print(advice_text(folder, found, verified=options.verify, run=options.run))


def _parser() -> Any:
    made = typed_parser("kinetic audit", "Find suspected copies among samples, and say how sure that is.", EXAMPLES)
    add_origin(made.add_argument_group("what to audit"))
    group = made.add_argument_group("how")
    group.add_argument("--num", type=int, default=512, metavar="N", help="samples, with the seeds 0 to N - 1")
    group.add_argument("--seeds", type=str, metavar="A-B", help="which seeds instead")
    which = f"{BEFORE_ONSET}|STEP|FILE|none"
    group.add_argument(
        "--before", type=str, metavar=which, help=f"an earlier checkpoint to compare with (None: {BEFORE_ONSET} if any)"
    )
    group.add_argument("--fit", type=str, metavar="RUN|FILE", help="another run, audited with --verify: its copy score")
    group.add_argument("--verify", action="store_true", help="read the training data, and tell what suspicion is worth")
    group.add_argument("--images", type=int, default=512, metavar="N", help="--verify: images of either kind at most")
    group.add_argument("--out", type=str, metavar="DIR", help=f"folder for the results (None: RUN/{FOLDER})")
    group.add_argument("--overwrite", action="store_true", help="replace other samples that lie there")
    add_devices(group)
    add_solver(made)
    return made


def _run_of(origin: Origin) -> Path:
    if origin.run is None:
        raise KineticError(f"{origin.name} lies in no run, which --verify and --before need; name a run")
    return origin.run


def _before(options: Any, origin: Origin) -> Origin | None:
    """The earlier checkpoint; none where none is asked for, or none was kept and nobody asked."""
    if options.before == "none" or options.empirical:
        return None
    try:
        which = options.before or BEFORE_ONSET
        found = Path(which) if Path(which).is_file() else earlier_checkpoint(_run_of(origin), which)
    except KineticError:
        if options.before is not None:
            raise
        return None
    opened = open_checkpoint(found, weights=options.weights, trust=trusted(options))
    if opened.identity["step"] >= origin.identity["step"]:
        if options.before is None:
            return None
        raise KineticError(f"--before {options.before} is no earlier checkpoint than {origin.name}; name another")
    if opened.field.shape != origin.field.shape or opened.field.num_classes != origin.field.num_classes:
        raise KineticError(
            f"--before {options.before}: its samples are of another shape or other classes; name another"
        )
    return opened


def _fitted(options: Any) -> CopyScore | None:
    if options.fit is None:
        return None
    named = Path(options.fit)
    for file in (named, named / FOLDER / SCORE, Path(options.root) / options.fit / FOLDER / SCORE):
        if file.is_file():
            return CopyScore.from_dict(read_json(file), source=str(file))
    raise KineticError(
        f"--fit {options.fit}: no copy score there; write one with: kinetic audit {options.fit} --verify"
    )
