"""The command lines: `kinetic train`, `kinetic sample`, and the files train.py and sample.py."""

import sys

from kinetic.cli.errors import guarded

USAGE = """usage: kinetic COMMAND ...

  train    train a model:                 kinetic train --config configs/digits.yaml
  sample   draw and measure samples:      kinetic sample --kts balanced
  shards   write webdataset shards:       kinetic shards SOURCE OUT
  report   write the report of a run:     kinetic report RUN

kinetic COMMAND --help lists its options."""


def main(args: list[str] | None = None) -> None:
    """Run a subcommand."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if args else 2)
    if args[0] == "train":
        from kinetic.cli.train import train as command
    else:
        print(f"error: unknown command {args[0]!r}; choose from train, sample, shards, report", file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(guarded(command, args[1:]))
