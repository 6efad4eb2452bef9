"""Pages that list every option of every command, asked from the parsers."""

import argparse
import re
from collections.abc import Iterator

from kinetic.cli.asking import EVERY, asked
from kinetic.cli.interface import TAKEN

GENERATED = "<!-- made from the parsers by docs/making/options.py -->"
TYPE_AND_DEFAULT = re.compile(
    r"\s*\((?:required, )?(?:type: .*?)?(?:, )?(?:default: (?P<default>.*?))?(?:, known.*)?\)$", re.S
)
LISTED = tuple(name for name in EVERY if name != "study")
HELP = "Show the help for the given subclass"


def pages() -> dict[str, str]:
    """The Markdown of each command's page, by the name of its file."""
    parsers = {name: asked(name)[0][0] for name in LISTED}
    return {"index.md": _index(parsers), **{_file(name): _page(name, parser) for name, parser in parsers.items()}}


def names() -> list[str]:
    """The names of the files of all commands."""
    return [_file(name) for name in LISTED]


def _file(name: str) -> str:
    return f"{name.replace(' ', '-')}.md"


def _index(parsers: dict[str, argparse.ArgumentParser]) -> str:
    """The page that lists the commands."""
    rows = [f"| [`{_typed(name)}`]({_file(name)}) | {_purpose(parser)} |" for name, parser in parsers.items()]
    head = "# Commands\n\nEvery command and every option, as the parsers have them; `--help` says the same."
    files = (
        "In a clone of the repository each is typed after `uv run`; `train.py` and `sample.py` are `kinetic train` and "
        "`kinetic sample`, which an installed package has as well."
    )
    return "\n".join([head, "", files, "", "| command | what it does |", "|---|---|", *rows, "", GENERATED, ""])


def _page(name: str, parser: argparse.ArgumentParser) -> str:
    usage = " ".join(part for part in [_typed(name), *_positionals(parser), "[options]"] if part)
    lines = [f"# {_typed(name)}", "", _purpose(parser), "", f"```text\n{usage}\n```", "", GENERATED, ""]
    example = _examples(parser)
    if example:
        lines += ["## Examples", "", f"```text\n{example}\n```", ""]
    if name in TAKEN:
        rows = [(f"--{option} {value}".rstrip(), "", what) for option, (value, what) in TAKEN[name].items()]
        lines += _table("Beside the configuration", rows)
    for title, rows in _groups(parser):
        lines += _table(title, rows)
    return "\n".join(lines)


def _typed(name: str) -> str:
    """A command as it is typed after `uv run`."""
    return f"{name}.py" if name in ("train", "sample") else f"kinetic {name}"


def _purpose(parser: argparse.ArgumentParser) -> str:
    return (parser.description or "").split("\n\n")[0].replace("\n", " ").strip()


def _examples(parser: argparse.ArgumentParser) -> str:
    text = (parser.epilog or "").strip()
    if not text.startswith("examples:"):
        return ""
    return "\n".join(line.removeprefix("  ") for line in text.removeprefix("examples:").strip("\n").split("\n"))


def _positionals(parser: argparse.ArgumentParser) -> list[str]:
    shown = [action for action in parser._actions if not action.option_strings and action.help != argparse.SUPPRESS]
    return [
        f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar or action.dest)
        for action in shown
        if "applied on parse" not in str(action.metavar)
    ]


def _groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The groups of options that a parser has, each with its rows: as typed, default, meaning."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        if group.title is None or group.title.startswith("Linked"):
            continue
        rows = [
            _row(action, formatter)
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not (action.help or "").startswith(HELP)
        ]
        if rows:
            yield group.title, rows


def _row(action: argparse.Action, formatter: argparse.HelpFormatter) -> tuple[str, str, str]:
    text = formatter._expand_help(action).strip()
    found = TYPE_AND_DEFAULT.search(text)
    default = found.group("default") if found else None
    what = text[: found.start()] if found else text
    flag = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = "" if action.nargs == 0 or not action.option_strings else _value(action)
    hidden = default in (None, "null", "[]", "==SUPPRESS==") or (default == "False" and action.nargs == 0)
    return f"{flag} {value}".rstrip(), "" if hidden else str(default), what


def _value(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    if action.choices:
        return "|".join(map(str, action.choices))
    return action.dest.rpartition(".")[2].upper()


def _table(title: str, rows: list[tuple[str, str, str]]) -> list[str]:
    """A heading and a table, with what Markdown takes for its own escaped."""
    head = [f"## {title[:1].upper()}{title[1:]}", "", "| option | default | what it does |", "|---|---|---|"]
    return [*head, *(f"| `{_cell(flag)}` | {_code(default)} | {_words(what)} |" for flag, default, what in rows), ""]


def _cell(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f]+", " ", text).replace("|", "\\|").strip()


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _words(text: str) -> str:
    return re.sub(r"(?<!`)([<>*_\[\]])(?!`)", r"\\\1", _cell(text)) if "`" not in text else _cell(text)
