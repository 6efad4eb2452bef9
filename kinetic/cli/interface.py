"""What every command takes, known without importing what it is made of: help and refusals come at once.

interface.json is written from the parsers by `python -m kinetic.cli.asking`, and holds for the versions of the
parser that it names; under others every command asks its parser, which imports Lightning and takes seconds.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("interface.json")
PARSERS = ("torch", "lightning", "jsonargparse")  # packages that decide what a command takes and which classes it lists
TAKEN = {  # options that a command takes before its parser sees the others: what follows them, and what they do
    "train": {
        "resume": ("[RUN]", "go on with a run where it stopped (the newest); options that follow hold from there on"),
        "dry-run": ("", "build everything, tell parameters, memory and time, and write nothing"),
        "trust": ("NAME", "a package whose classes, or a source whose data, the configuration may name"),
    }
}
ADVICE = {"train": "--print_config shows the options that there are"}


def unknown_option(typed: str, known: Sequence[str], advice: str) -> str:
    """Say in one line that an option, typed with its dashes, is none of the `known` ones."""
    close = difflib.get_close_matches(typed.removeprefix("--"), known, n=1, cutoff=0.75)
    return f"unknown option {typed}" + (f"; did you mean --{close[0]}?" if close else "") + f"; {advice}"


def options_of(parser: argparse.ArgumentParser, command: str = "") -> list[str]:
    """The options that a command takes, without their dashes: those of its parser, and those taken before."""
    typed = (text[2:] for action in parser._actions for text in action.option_strings if text.startswith("--"))
    return sorted({*typed, *TAKEN.get(command, ())})


def taken(command: str) -> str:
    """The lines of the help that tell what a command takes before its parser."""
    lines = [(f"--{name} {value}".rstrip(), what) for name, (value, what) in TAKEN[command].items()]
    return "\n".join(["taken first:", *(f"  {option:<20}  {what}" for option, what in lines)])


def answer(args: Sequence[str]) -> tuple[int, str] | None:
    """The exit status and the text of a command line that asks for help or holds an unknown option; None of others."""
    name, rest = _split(args)
    entry = _entries().get(name)
    if entry is None:
        return None
    if any(arg in ("-h", "--help") for arg in rest):
        return 0, entry["help"]
    known = entry["options"]
    for arg in rest if known is not None else ():
        typed = arg.partition("=")[0].rstrip("+")
        if typed.startswith("--") and len(typed) > 2 and not _takes(typed[2:], known):
            advice = ADVICE.get(name, f"{entry['program']} --help lists the options")
            return 1, f"error: {unknown_option(typed, known, advice)}"
    return None


def _split(args: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of a command, with that of a study, and what follows it."""
    words = 2 if args[0] == "study" and len(args) > 1 and not args[1].startswith("-") else 1
    return " ".join(args[:words]), args[words:]


def _takes(option: str, known: Sequence[str]) -> bool:
    """Whether an option is known, or lies in one that takes the arguments of a class that it does not know."""
    if option in known:
        return True
    parts = option.split(".")
    for end in range(len(parts) - 1, 0, -1):
        owner = ".".join(parts[:end])
        if owner in known:
            return all(other == f"{owner}.help" for other in known if other.startswith(f"{owner}."))
    return False


@cache
def _entries() -> dict[str, Any]:
    """What is known of each command; nothing where the parsers are others than those that were asked."""
    try:
        held: dict[str, Any] = json.loads(FILE.read_text())
    except (OSError, ValueError):
        return {}
    return held["commands"] if held["parsers"] == versions() else {}


def versions() -> dict[str, str]:
    """Versions of what decides what a command takes."""
    return {"python": ".".join(map(str, sys.version_info[:2])), **{name: version(name) for name in PARSERS}}
