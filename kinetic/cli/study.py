"""The command `study`: what a model does, measured after the fact."""

from functools import partial

from kinetic.cli import load
from kinetic.cli.quiet import quiet
from kinetic.errors import KineticError

ALL, EVERY = "all", "kinetic.cli.study_all:study_all"
STUDIES = {  # where the function lies that runs a study, and what it shows
    "balance": ("kinetic.cli.study_balance:study_balance", "what samples spend against what real images bear out"),
    "support": ("kinetic.cli.study_support:study_support", "energies against how well training images support samples"),
    "semantics": ("kinetic.cli.study_semantics:study_semantics", "how clearly samples of high energy show a class"),
    "likelihood": ("kinetic.cli.study_likelihood:study_likelihood", "log p by the model's own flow, and energies"),
    "kts": ("kinetic.cli.study_kts:study_kts", "what shaping does to quality and copies, beside its controls"),
    "goldilocks": ("kinetic.cli.study_goldilocks:study_goldilocks", "quality and copies by energy, and a band to keep"),
    "empirical": ("kinetic.cli.study_empirical:study_empirical", "the closed-form field against the network"),
    "onset": ("kinetic.cli.study_onset:study_onset", "when copying begins over training-set sizes and widths"),
    "couplings": ("kinetic.cli.study_couplings:study_couplings", "optimal transport against independent pairs"),
}


def usage() -> str:
    """The studies there are."""
    width = max(map(len, STUDIES))
    known = [
        *((name, about) for name, (_, about) in STUDIES.items()),
        (ALL, "all of these; --skip A,B leaves some out"),
    ]
    lines = "\n".join(f"  {name:{width}}  {about}" for name, about in known)
    return (
        "usage: kinetic study NAME [RUN] ...\n\nOf a run, a checkpoint, or --empirical; results go to "
        f"RUN/studies/NAME.\n\n{lines}\n\nkinetic study NAME --help lists the options."
    )


def study(args: list[str]) -> None:
    """Run one of the studies, or all: `NAME [RUN] [--checkpoint FILE] [--num N] ...`."""
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0 if args else 2)
    name, *rest = args
    if name not in (*STUDIES, ALL):
        raise KineticError(f"unknown study {name!r:.80}; choose from {', '.join(STUDIES)}, or {ALL}")
    quiet()
    if name == ALL:
        load(EVERY)(rest, {one: partial(load, place) for one, (place, _) in STUDIES.items()})
    else:
        load(STUDIES[name][0])(rest)
