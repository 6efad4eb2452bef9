"""Which shards a pattern stands for, and which of them are commands or URLs: decided here, once."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_letters
from urllib.parse import urlparse
from urllib.request import url2pathname

from webdataset.shardlists import braceexpand, envsubst

from kinetic.data.names import STRANGE, shown
from kinetic.errors import KineticError
from kinetic.trust import OWN, Trust

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MOST_SHARDS = 100_000
LONGEST = 8192  # characters of one pattern
DEEPEST = 20  # braces within braces
NUMBERS = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?(\d{1,18}))?")
LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d{1,18}))?")


@dataclass(frozen=True)
class Shard:
    """One tar: where it is, the name in its images' ids, and what the manifest beside it says it is.

    `remote` says that `url` is a URL or a `pipe:` command, as whoever wrote the pattern meant it; all else is a file,
    whatever it is called.
    """

    url: str
    name: str
    remote: bool = False
    sha256: str | None = None


def find_shards(patterns: str | list[str], trust: Trust = OWN, *, option: str = "train") -> list[Shard]:
    """Expand folders, globs, brace patterns and `::` lists to shards; URLs and `pipe:` commands stay as they are.

    KineticError for a pattern that stands for no file or for more than MOST_SHARDS, and for a remote source that
    `trust` does not allow: before anything is opened, it or what it expands to must be among `trust.sources`.
    """
    found: list[tuple[str, bool]] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for url in _expanded(pattern, option):
            if is_remote(url):
                _check_trust(url, pattern, trust, option)
                found.append((url, True))
            else:
                found += [(path, False) for path in local_files(_path(url))]
        if len(found) > MOST_SHARDS:
            raise KineticError(f"{option} stands for more than {MOST_SHARDS:,} shards: pass fewer")
    if not found:
        raise KineticError(f"{option}={patterns!r} names no shard: pass a tar, a folder of tars or a pattern")
    names = [shard_name(url) for url, _ in found]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise KineticError(
            f"two shards are called {shown(twice)}, so that image ids would not be unique: rename one of them"
        )
    strange = next((name for name in names if STRANGE.search(name)), None)
    if strange is not None:
        raise KineticError(f"the name of the shard {strange!r} has a line break or bytes that are no text: rename it")
    return [Shard(url, name, remote) for (url, remote), name in zip(found, names, strict=True)]


def is_remote(written: str) -> bool:
    """Whether a pattern, as a person wrote it, is a URL or a command and not a path; `file://` is a path."""
    return written.startswith("pipe:") or (
        re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", written) is not None and not written.startswith("file://")
    )


def local_files(pattern: str) -> list[str]:
    """The files that a path, a folder or a glob stands for, sorted."""
    try:
        files = _matches(pattern)
    except (OSError, ValueError, NotImplementedError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise KineticError(f"shards in {shown(pattern)} cannot be listed ({reason}): pass another pattern") from None
    if not files:
        raise KineticError(f"no shards in {shown(pattern)}: looked for tars (.tar, .tar.gz, .tgz)")
    odd = next((f for f in sorted(files) if not os.path.isfile(f)), None)
    if odd is not None:
        raise KineticError(f"shard {shown(odd)} is not a regular file: remove it, or pass a pattern that leaves it out")
    return sorted(files)


def shard_name(url: str) -> str:
    """The base name of a shard without its extension: `a/train-00000.tar.gz` -> `train-00000`."""
    tars = re.findall(r"([^/\\\s'\"=]+?)\.(?:tar\.gz|tar|tgz)\b", url)
    return tars[-1] if tars else Path(url.split("?")[0]).name.split(".")[0]


def expansions(pattern: str) -> int:
    """How many texts a brace pattern stands for, counted without expanding it; more than MOST_SHARDS is just that."""
    most = MOST_SHARDS + 1
    sums, products, starts, commas = [0], [1], [0], [False]  # of every brace that is open
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            place += 1
        elif letter == "{":
            sums.append(0)
            products.append(1)
            starts.append(place + 1)
            commas.append(False)
            if len(starts) > DEEPEST:
                return most
        elif letter == "," and len(starts) > 1:
            sums[-1], products[-1], commas[-1] = min(sums[-1] + products[-1], most), 1, True
        elif letter == "}" and len(starts) > 1:
            total, last, start, comma = sums.pop(), products.pop(), starts.pop(), commas.pop()
            inner = _range(pattern[start:place])
            inner = inner if inner is not None else total + last if comma else last
            products[-1] = min(products[-1] * inner, most)
        place += 1
    return products[-1]


def _range(written: str) -> int | None:
    """How many texts the inside of a brace stands for if it is a range, else None."""
    if letters := LETTERS.fullmatch(written):
        first, last = (ascii_letters.swapcase().index(letter) for letter in letters.groups()[:2])
        step = int(letters[3] or 1)
    elif numbers := NUMBERS.fullmatch(written):
        first, last, step = (int(n or 1) for n in numbers.groups())
    else:
        return MOST_SHARDS + 1 if re.fullmatch(r"-?\d+\.\.-?\d+(?:\.\.-?\d+)?", written) else None
    return abs(last - first) // max(step, 1) + 1


def _expanded(pattern: str, option: str) -> list[str]:
    if not isinstance(pattern, str) or not pattern or "\0" in pattern:
        raise KineticError(f"{option}={pattern!r} is no pattern of shards: pass a tar, a folder of tars or a pattern")
    literal = pattern.startswith("pipe:") and "{" not in pattern
    parts = [pattern] if literal else pattern.split("::")
    if len(parts) > MOST_SHARDS or max(map(len, parts)) > LONGEST:
        raise KineticError(
            f"{option} is too long: a pattern has at most {LONGEST:,} characters; pass a folder or a glob"
        )
    if literal:
        return parts
    try:
        parts = [_substituted(part) for part in parts]
        if sum(map(expansions, parts)) > MOST_SHARDS:
            raise KineticError(
                f"{option}={pattern[:100]!r} stands for more than {MOST_SHARDS:,} shards, the most that are read:"
                " mend its braces"
            )
        return [url for part in parts for url in braceexpand.braceexpand(part)]
    except KineticError:
        raise
    except (ValueError, AssertionError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KineticError(f"{option}={pattern[:100]!r} is no pattern ({reason}): mend it") from None


def _substituted(part: str) -> str:
    for _ in range(10):
        before, part = part, envsubst(part)
        if part == before or len(part) > LONGEST:
            break
    if len(part) > LONGEST:
        raise ValueError(f"with its variables it has more than {LONGEST:,} characters")
    return part


def _check_trust(url: str, pattern: str, trust: Trust, option: str) -> None:
    if trust.allows_source(pattern) or trust.allows_source(url):
        return
    kind = "a command" if url.startswith("pipe:") else "a URL"
    raise KineticError(
        f"the data's {option} comes from a saved configuration and is not opened: {url!r} is {kind};"
        f" pass --trust {shlex.quote(pattern)} if it is yours"
    )


def _path(url: str) -> str:
    return url2pathname(urlparse(url).path) if url.startswith("file://") else url


def _matches(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    path = Path(pattern)
    if os.path.isdir(pattern):
        return [str(p) for p in islice(_tars(path), MOST_SHARDS + 1)]
    if os.path.lexists(pattern):
        return [pattern]
    parts = path.parts
    first = next((n for n, part in enumerate(parts) if set("*?[") & set(part)), len(parts))
    if first == len(parts):
        raise KineticError(
            f"shard {shown(pattern)} does not exist: pass the path of a tar, a folder of tars or a pattern"
        )
    if parts.count("**") > 1:
        raise ValueError("it has more than one **")
    found = Path(*parts[:first]).glob("/".join(parts[first:]))
    files = (p for p in found if not p.is_dir() and not p.name.startswith("._"))
    return [str(p) for p in islice(files, MOST_SHARDS + 1)]


def _tars(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
