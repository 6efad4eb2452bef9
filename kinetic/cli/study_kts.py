"""The command `study kts`: what shaping does to quality and copies, beside the controls that leftover noise sets it."""

from dataclasses import replace
from typing import Any

from kinetic.cli.options import add_shaping, naming, parsed, shaping_of
from kinetic.cli.sample_settings import cleaner_of
from kinetic.cli.study_options import finish, looked_at, study_parser, subject_of
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.memorization.cleaning import Cleaned, cleaned_set
from kinetic.metrics.extractors import CHOICES
from kinetic.studies.grids import groups_of
from kinetic.studies.kts import draw_group, measured
from kinetic.studies.kts_findings import findings_of

NUM = 256
DEFAULTS = {  # what is tried on each axis where no axis is named
    "alpha": "0,0.005,0.02,0.05",
    "beta": "0,0.005,0.02,0.04",
    "tau": "0.2,0.4,0.8",
    "launch": "constant,exponential",
    "landing": "linear,constant",
    "method": "midpoint",
    "steps": "",
    "grid": "cosine",
}
READ: dict[str, Any] = {"alpha": float, "beta": float, "tau": float, "steps": int}


def study_kts(args: list[str]) -> None:
    """Try settings of shaping."""
    options = parsed(_parser(), args)
    subject = subject_of("kts", options)
    with naming(options):
        base = replace(subject.sampler, kts=shaping_of(options, options.kts or "balanced"))
        groups = groups_of(base, axes_of(options, base), full=options.full)
    if base.kts.is_off:
        raise KineticError("there is nothing to shape: --kts off; name another, such as --kts balanced")
    cleaning = None if options.cleaner is None else cleaner_of(options, subject.origin, subject.device)
    drawings = [
        draw_group(subject, group, into=f"samples/{group.name.replace(' ', '-')}", checkpoints=not number)
        for number, group in enumerate(groups)
    ]
    if not subject.first:
        return
    training_set, judge, missing = looked_at(subject, options.features)
    cleaned = None
    if cleaning is not None and training_set is not None:
        cleaned = Cleaned(cleaning, cleaned_set(training_set, cleaning))
    found = [
        measured(drawing, group, training_set=training_set, judge=judge, cleaned=cleaned)
        for drawing, group in zip(drawings, groups, strict=True)
    ]
    finish(subject, findings_of(subject, base, found, judge=judge, missing=missing))


def _parser() -> Any:
    made = study_parser("kts", "Try settings of kinetic trajectory shaping, beside controls.", num=NUM)
    add_shaping(made)
    group = made.add_argument_group("what is tried around it, values separated by commas")
    for name, usual in DEFAULTS.items():
        group.add_argument(f"--try-{name}", type=str, metavar="A,B", help=f"(None, where no axis is named: {usual})")
    group.add_argument("--full", action="store_true", help="all combinations instead of one axis at a time")
    group = made.add_argument_group("how it is judged")
    group.add_argument("--features", type=str, metavar="NAME", help=f"{CHOICES}, or none (None: pca:64)")
    group.add_argument("--cleaner", type=str, metavar="RUN|FILE", help="F_mem also after this network has denoised")
    return made


def axes_of(options: Any, base: Sampler) -> dict[str, list[Any]]:
    """The values on the axes that were named, or on all where none was."""
    given = {name: getattr(options, f"try_{name}") for name in DEFAULTS}
    if all(text is None for text in given.values()):
        given = {**DEFAULTS, "steps": f"{base.steps // 2},{base.steps * 5 // 2}"}
    return {name: _values(name, text) for name, text in given.items() if text}


def _values(name: str, text: str) -> list[Any]:
    read = READ.get(name, str)
    try:
        return [read(part.strip()) for part in text.split(",")]
    except ValueError:
        raise KineticError(f"--try-{name} takes values separated by commas, got {text!r:.80}") from None
