"""The command lines: `kinetic train`, `kinetic sample`, and the files train.py and sample.py."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import TextIO

from kinetic.cli import partners
from kinetic.cli.interface import answer

USAGE = """usage: kinetic COMMAND ...

  train      train a model:                 kinetic train --config configs/digits.yaml
  sample     draw and measure samples:      kinetic sample --kts balanced
  shards     write webdataset shards:       kinetic shards SOURCE OUT
  encode     images to shards of latents:   kinetic encode SOURCE OUT --vae NAME
  study      measure a model afterwards:    kinetic study NAME RUN
  tune       find a run's best shaping:     kinetic tune RUN
  reference  features of real images:       kinetic reference RUN
  audit      find suspected copies:         kinetic audit RUN
  report     write the report of a run:     kinetic report RUN
  import     make a run of a public file:   kinetic import FILE
  export     pass a model on:               kinetic export RUN OUT

kinetic COMMAND --help lists its options."""


COMMANDS = {  # where the function lies that runs a subcommand
    "train": "kinetic.cli.train:train",
    "sample": "kinetic.cli.sample:sample",
    "shards": "kinetic.cli.shards:shards",
    "encode": "kinetic.cli.encoding:encode",
    "study": "kinetic.cli.study:study",
    "tune": "kinetic.cli.tune:tune",
    "reference": "kinetic.cli.reference:reference",
    "audit": "kinetic.cli.audit:audit",
    "report": "kinetic.cli.report:report",
    "import": "kinetic.cli.importing:import_file",
    "export": "kinetic.cli.exporting:export",
}


def main(args: list[str] | None = None) -> None:
    """Run a subcommand; the module of its function is imported only then."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        _say(USAGE, sys.stdout)
        raise SystemExit(0 if args else 2)
    name, *rest = args
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    known = answer(args)
    if known is not None:
        status, text = known
        _say(text, sys.stderr if status else sys.stdout)
        raise SystemExit(status)
    if any(arg.partition("=")[0] == "--trust" for arg in rest):
        sys.path.append(os.getcwd())  # what is trusted may lie here; last, so that what is installed comes first
    partners.begin()
    try:
        from kinetic.cli.errors import guarded  # imports Lightning, which takes seconds

        command = load(COMMANDS[name])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(guarded(command, rest))


def _say(text: str, file: TextIO) -> None:
    """Print to whoever still reads: `kinetic --help | head` closes its end early."""
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # for what Python flushes as it ends


def load(place: str) -> Callable[..., None]:
    """Import the function at MODULE:NAME, which runs a subcommand or a study."""
    module, _, function = place.partition(":")
    found: Callable[..., None] = getattr(importlib.import_module(module), function)
    return found
