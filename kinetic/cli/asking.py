"""Asking the parsers of all commands what they take: `python -m kinetic.cli.asking` writes interface.json anew."""

import argparse
import contextlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any

from kinetic.cli import COMMANDS, load
from kinetic.cli.interface import FILE, options_of, versions
from kinetic.cli.study import ALL, STUDIES
from kinetic.store.files import write_text

EVERY = (*COMMANDS, *(f"study {name}" for name in (*STUDIES, ALL)))
WIDTH = "100"  # columns of the help


def everything() -> dict[str, Any]:
    """What `interface.json` holds: every command's program, options and help."""
    commands = {}
    for name in EVERY:
        parsers, text = asked(name)
        found = sorted({option for parser in parsers for option in options_of(parser, name)})
        options = found if parsers else None
        program = parsers[0].prog if parsers else f"kinetic {name}"
        commands[name] = {"program": program, "options": options, "help": text}
    return {"parsers": versions(), "commands": commands}


def asked(name: str) -> tuple[list[argparse.ArgumentParser], str]:
    """The parsers of a command, or of `study NAME`, and its help."""
    command, *rest = name.split()
    with _recorded() as (parsers, text), contextlib.suppress(SystemExit):
        load(COMMANDS[command])([*rest, "--help"])
    return parsers, text.getvalue().rstrip("\n")


@contextlib.contextmanager
def _recorded() -> Iterator[tuple[list[argparse.ArgumentParser], io.StringIO]]:
    """The parsers that print their help, and what is printed."""
    parsers: list[argparse.ArgumentParser] = []
    text, before, columns = io.StringIO(), argparse.ArgumentParser.print_help, os.environ.get("COLUMNS")

    def print_help(parser: argparse.ArgumentParser, file: Any = None) -> None:
        parsers.append(parser)
        before(parser, file)

    argparse.ArgumentParser.print_help = print_help  # type: ignore[method-assign, assignment]
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(text):
            yield parsers, text
    finally:
        argparse.ArgumentParser.print_help = before  # type: ignore[method-assign]
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def main() -> None:
    """Write interface.json anew."""
    write_text(FILE, json.dumps(everything(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
