"""Groups of options that commands share, each said once; what cannot be understood is one line."""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import DefaultHelpFormatter

from kinetic.cli.interface import options_of, unknown_option
from kinetic.errors import KineticError
from kinetic.flow.integration import Solver
from kinetic.flow.shaping import FORMS, KTS, PRESETS
from kinetic.flow.solvers import AVERAGING
from kinetic.store.plain import check_yaml

CALIBRATED, TUNED = "calibrated", "tuned"
MEASURED = (CALIBRATED, TUNED)  # shapings that a run's own files say
SHAPINGS = (*PRESETS, *MEASURED)
KINDS = {  # how types are called where an option has a value of another
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "NoneType": "null",
    "list": "a list",
    "dict": "names with values",
}


class Parser(argparse.ArgumentParser):
    """ArgumentParser that takes no abbreviations, and raises KineticError where argparse would exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise the fault; the caller tells it in one line."""
        raise KineticError(_fault(message, self))


class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the examples as they are written."""


def typed_parser(prog: str, description: str, examples: str) -> jsonargparse.ArgumentParser:
    """Make a parser that takes options from the fields of classes and the arguments of functions."""
    return jsonargparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


@contextmanager
def bounded_values(name: str = "a value") -> Iterator[None]:
    """Let jsonargparse, which takes values for YAML, read none without bounds; its loaders belong to the process."""
    own = jsonargparse.get_loader("yaml")

    def load(text: str) -> Any:
        check_yaml(text, name=name)
        return own(text)

    jsonargparse.set_loader("yaml", load, (yaml.YAMLError,))
    try:
        yield
    finally:
        jsonargparse.set_loader("yaml", own, (yaml.YAMLError,))


def parsed(parser: jsonargparse.ArgumentParser, args: list[str]) -> Any:
    """Read a command line; what cannot be understood is a KineticError that names the option as it is typed."""
    try:
        with bounded_values():
            return parser.parse_args(args)
    except argparse.ArgumentError as error:
        message = " ".join(str(error).split())
        wrong = re.search(r'Parser key "([\w.]+)": Expected an? <class \'(\w+)\'>\. Got value: (.*)', message)
        if wrong:
            message = f"--{wrong[1].replace('_', '-')} takes {KINDS.get(wrong[2], wrong[2])}, got {wrong[3]!r:.80}"
        named = re.match(r'Parser key "([\w.]+)": ', message)
        if named:
            message = f"--{named[1].replace('_', '-')}: {message[named.end() :]}"
        raise KineticError(_fault(message, parser)) from None


def _fault(message: str, parser: argparse.ArgumentParser) -> str:
    advice = f"{parser.prog} --help lists the options"
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    if unknown is None:
        return f"{message}; {advice}"
    return unknown_option(unknown[1], options_of(parser), advice)


def add_solver(parser: jsonargparse.ArgumentParser) -> None:
    """Add the options of `Solver`: method, steps, grid, rtol, atol."""
    parser.add_class_arguments(Solver, None)


def solver_settings(options: Any) -> dict[str, Any]:
    """The fields of `Solver` among the options; a grid may be times separated by commas."""
    grid: str | tuple[float, ...] = options.grid
    if isinstance(grid, str) and "," in grid:
        try:
            grid = tuple(float(part) for part in grid.split(","))
        except ValueError:
            wanted = "write uniform, cosine, or times such as 0,0.5,1"
            raise KineticError(f"--grid: cannot read the grid {grid!r:.80}; {wanted}") from None
    names = ("method", "steps", "rtol", "atol")
    return {"grid": grid, **{name: getattr(options, name) for name in names}}


def add_devices(group: Any) -> None:
    """Add the options that say where to compute."""
    group.add_argument("--devices", default="1", type=str, metavar="N", help="how many devices, or auto")
    group.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ...")


SHAPING = ("alpha", "beta", "tau", "k", "launch_form", "landing_form")  # options that override a field of a preset


def add_shaping(parser: jsonargparse.ArgumentParser) -> None:
    """Add the options of kinetic trajectory shaping: a preset, and what overrides its fields."""
    group = parser.add_argument_group("kinetic trajectory shaping")
    group.add_argument("--kts", type=str, metavar="NAME", help=f"{', '.join(SHAPINGS)} (None: off)")
    group.add_argument("--alpha", type=float, metavar="A", help="strength of the launch")
    group.add_argument("--beta", type=float, metavar="B", help="strength of the landing")
    group.add_argument("--tau", type=float, metavar="T", help="where launch turns into landing, in (0, 1)")
    group.add_argument("--k", type=float, metavar="K", help="rate of the exponential forms")
    group.add_argument("--launch-form", type=str, metavar="FORM", help=f"{', '.join(FORMS)}")
    group.add_argument("--landing-form", type=str, metavar="FORM", help=f"{', '.join(FORMS)}")
    group.add_argument(
        "--average-gain",
        action="store_true",
        help=f"each step takes the mean of the gain over it, in closed form; with {', '.join(AVERAGING)}",
    )
    group.add_argument(
        "--floor",
        type=float,
        metavar="F",
        help="calibrated: the gain on held-out images, smoothed over neighbouring bins, clipped to [F, 1] (None: 0.05)",
    )


def shaping_of(options: Any, preset: str | None = None) -> KTS:
    """Build the shaping that the options describe, on another preset where one is named; not the calibrated one."""
    fields = {name: getattr(options, name) for name in ("alpha", "beta", "tau", "k")}
    forms = {"launch": options.launch_form, "landing": options.landing_form}
    return KTS.preset(preset or options.kts or "off", **fields, **forms)


def compared(text: str, known: Sequence[str]) -> list[str]:
    """Read names of settings, `off` first, which the others are measured from."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise KineticError(f"unknown setting {name!r:.80}; choose from {', '.join(known)}")
    if len(set(names)) < len(names):
        raise KineticError(f"--compare {text} names a setting twice")
    return ["off", *(name for name in names if name != "off")]


def devices_of(text: str) -> int | str:
    """Read a number of devices, or auto."""
    return int(text) if text.isdecimal() and len(text) < 10 else text


@contextmanager
def naming(options: Any) -> Iterator[None]:
    """Let a complaint that begins with the name of one of the options begin with the option as it is typed."""
    try:
        yield
    except KineticError as error:
        text = str(error).removeprefix("KTS ")
        named = re.match(r"\w+", text)
        if named is None or named[0] not in options:
            raise
        raise KineticError(f"--{named[0].replace('_', '-')}{text[named.end() :]}") from None
