"""The command `study all`: every study of a run, one after the other, with what each took."""

import sys
import time
from collections.abc import Callable, Mapping

from kinetic.cli.options import Parser, parsed
from kinetic.cli.study_options import study_parser
from kinetic.errors import KineticError
from kinetic.text import aligned, duration

Study = Callable[[list[str]], None]


def study_all(args: list[str], studies: Mapping[str, Callable[[], Study]]) -> None:
    """Make all `studies` with the options that they share; one that cannot be made leaves the others."""
    apart = Parser(prog="kinetic study all", add_help=False)
    apart.add_argument("--skip", default="")
    known, args = apart.parse_known_args(args)
    skipped = known.skip.split(",") if known.skip else []
    parser = study_parser("all", "All studies with their own defaults.")
    parser.add_argument("--skip", metavar="A,B", help="studies to leave out")
    options = parsed(parser, args)
    if options.out is not None:
        raise KineticError("--out names one folder, and every study has its own; leave it out")
    unknown = next((name for name in skipped if name not in studies), None)
    if unknown is not None:
        raise KineticError(f"--skip: unknown study {unknown!r:.80}; choose from {', '.join(studies)}")
    found = [_made(name, load, args) for name, load in studies.items() if name not in skipped]
    print(f"\n{aligned([['study', 'took', 'result'], *found])}")
    if found and all(line[2] != "done" for line in found):
        raise KineticError("none of the studies could be made; the lines above say why")


def _made(name: str, load: Callable[[], Study], args: list[str]) -> list[str]:
    """Make one study: its name, what it took, and what came of it."""
    print(f"\n==== {name}", file=sys.stderr)
    begun, said = time.monotonic(), "done"
    try:
        load()(args)
    except KineticError as error:
        said = f"left out: {error}"
        print(said, file=sys.stderr)
    return [name, duration(time.monotonic() - begun), said]
