"""The command lines: `kinetic train`, `kinetic sample`, and the files train.py and sample.py."""

import importlib
import sys

from kinetic.cli import partners

USAGE = """usage: kinetic COMMAND ...

  train    train a model:                 kinetic train --config configs/digits.yaml
  sample   draw and measure samples:      kinetic sample --kts balanced
  shards   write webdataset shards:       kinetic shards SOURCE OUT
  study    measure a model afterwards:    kinetic study balance RUN
  audit    find suspected copies:         kinetic audit RUN
  report   write the report of a run:     kinetic report RUN

kinetic COMMAND --help lists its options."""


COMMANDS = {
    "train": "kinetic.cli.train",
    "sample": "kinetic.cli.sample",
    "shards": "kinetic.cli.shards",
    "study": "kinetic.cli.study",
    "audit": "kinetic.cli.audit",
    "report": "kinetic.cli.report",
}


def main(args: list[str] | None = None) -> None:
    """Run a subcommand; its module, which has a function of its name, is imported only then."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if args else 2)
    name, *rest = args
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    partners.begin()
    try:
        from kinetic.cli.errors import guarded  # imports Lightning, which takes seconds

        command = getattr(importlib.import_module(COMMANDS[name]), name)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(guarded(command, rest))
