"""Classes on the command line: by their names or numbers, as they are asked for and as they are told."""

import re
from collections.abc import Sequence

from kinetic.data.names import shown
from kinetic.errors import KineticError
from kinetic.flow.seeds import Labels


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


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether every class is called by its own number."""
    return all(name == str(number) for number, name in enumerate(names))


def classes_line(names: Sequence[str] | None, labels: Labels) -> str | None:
    """What the classes that are drawn are called, where names say more than numbers."""
    if names is None or _are_numbers(names):
        return None
    if labels is None or isinstance(labels, str):
        return f"classes: {listed_classes(names)}"
    drawn = [labels] if isinstance(labels, int) else labels
    return f"classes: {', '.join(f'{n} = {names[n]}' for n in dict.fromkeys(drawn) if 0 <= n < len(names))}"
