"""The command `study`: what a model does, measured after the fact."""

import importlib

from kinetic.cli.quiet import quiet
from kinetic.errors import KineticError

STUDIES = {  # where the function lies that runs a study, and what it shows
    "balance": ("kinetic.cli.study_balance:study_balance", "what samples spend against what real images bear out"),
    "onset": ("kinetic.cli.study_onset:study_onset", "when copying begins over training-set sizes and widths"),
}


def usage() -> str:
    """The studies there are."""
    width = max(map(len, STUDIES))
    lines = "\n".join(f"  {name:{width}}  {about}" for name, (_, about) in STUDIES.items())
    return (
        "usage: kinetic study NAME [RUN] ...\n\nOf a run, a checkpoint, or --empirical; results go to "
        f"RUN/studies/NAME.\n\n{lines}\n\nkinetic study NAME --help lists the options."
    )


def study(args: list[str]) -> None:
    """Run one of the studies: `NAME [RUN] [--checkpoint FILE] [--num N] ...`."""
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0 if args else 2)
    name, *rest = args
    if name not in STUDIES:
        raise KineticError(f"unknown study {name!r:.80}; choose from {', '.join(STUDIES)}")
    quiet()
    module, _, function = STUDIES[name][0].partition(":")
    getattr(importlib.import_module(module), function)(rest)
