"""Names of images, shards and classes: one line of text each, as `subset.txt` and tables hold them."""

import re
from collections.abc import Iterable

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
