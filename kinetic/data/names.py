"""Names of images, shards and classes: one line of text each, as `subset.txt` and tables hold them."""

import re
from collections.abc import Iterable, Sequence

from kinetic.errors import KineticError

LONGEST = 4096
# Control characters, what str.splitlines breaks at, and the halves that stand for bytes which are no UTF-8.
STRANGE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def fault_of_name(name: str) -> str | None:
    """Say why `name` cannot be that of an image, or None if it can."""
    if not name:
        return "its name is empty"
    if len(name) > LONGEST:
        return f"its name has {len(name):,} characters, at most {LONGEST:,} are allowed"
    strange = STRANGE.search(name)
    if strange is None:
        return None
    what = "bytes that are no UTF-8" if "\ud800" <= strange[0] <= "\udfff" else "a line break or control character"
    return f"its name has {what}"


def all_clean(names: Iterable[str]) -> bool:
    """Whether every name is fit, by one search through all of them."""
    listed = list(names)
    return STRANGE.search("".join(listed)) is None and all(0 < len(name) <= LONGEST for name in listed)


def shown(name: str) -> str:
    """Make a name fit for a message of one line: as it is, or quoted and cut where it is strange."""
    return name if len(name) < 300 and STRANGE.search(name) is None else f"{name[:100]!r}"


def labels_named(text: str, names: Sequence[str] | None) -> list[int]:
    """Read classes by their names or numbers, as "cat,dog", "0,3" or "#2,cat"; a text that is a name is that name.

    `names` are those of the classes in the order of their numbers; `#2` is class number 2 even where another class is
    called 2.
    """
    known = {name: number for number, name in enumerate(names or ())}
    parts = [text] if text in known else [part.strip() for part in text.split(",")]
    found = []
    for part in parts:
        if part in known:
            found.append(known[part])
        elif re.fullmatch("#?-?[0-9]{1,18}", part):
            found.append(int(part.removeprefix("#")))
        else:
            ours = f"; the classes are {listed_classes(names)}" if names else ""
            raise KineticError(
                f"--labels: cannot read labels {text!r:.80}; write a class, several such as 0,3,7, or balanced{ours}"
            )
    return found


def listed_classes(names: Sequence[str], *, most: int = 12) -> str:
    """Write classes with their numbers, "0 = cat, 1 = dog", the first `most` of them."""
    some = ", ".join(f"{number} = {shown(name)}" for number, name in enumerate(names[:most]))
    return f"{some}, ... {len(names)} in all" if len(names) > most else some


def are_numbers(names: Sequence[str]) -> bool:
    """Whether every class is called by its own number."""
    return all(name == str(number) for number, name in enumerate(names))
