"""Reading what a run left behind: a file that is absent, cut short or damaged becomes one sentence, no traceback."""

import base64
import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from kinetic.store.plain import parse_json
from kinetic.store.tables import read_parquet

T = TypeVar("T")
BYTES, PIXELS = 2**30, 10**8  # most of a file and of a picture
STEPS = 50_000  # of one table
Table = dict[str, NDArray[Any]]


class Unavailable(Exception):
    """Something a section needs is not there; the message is a sentence for the reader."""


def reading(path: Path, read: Callable[[Path], T]) -> T:
    """Apply `read` to a file; absent, damaged or unreadable ones raise `Unavailable` with the reason."""
    if not path.is_file():
        raise Unavailable(f"{path.name} is not in this folder.")
    try:
        if path.stat().st_size > BYTES:
            raise ValueError(f"it has more than {BYTES / 2**30:.0f} GiB")
        return read(path)
    except Exception as error:  # of a damaged file, which may lead to anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Unavailable(f"{path.name} could not be read: {reason[0][:300]}") from error


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Read a parquet file that has at least `columns` and one row, as numpy columns."""
    table = reading(path, read_parquet)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise Unavailable(f"{path.name} has no column {', '.join(missing)}.")
    if not table.num_rows:
        raise Unavailable(f"{path.name} has no rows yet.")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def read_about(path: Path) -> dict[str, str]:
    """What a parquet file says of itself, texts by name."""
    found = reading(path, pq.read_schema).metadata or {}
    return {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in found.items()}


def by_step(table: Table, column: str) -> dict[int, NDArray[Any]]:
    """Split one column by the training step of its rows, in the order of the steps."""
    order = np.argsort(table["step"], kind="stable")
    steps, starts = np.unique(table["step"][order], return_index=True)
    if len(steps) > STEPS:
        raise Unavailable(f"the table has rows of {len(steps):,} steps, at most {STEPS:,} are shown.")
    return dict(zip(map(int, steps), np.split(table[column][order], starts[1:]), strict=True))


def number(cell: Any) -> float:
    """Turn a cell into a float; NaN where it is empty or no number."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _csv(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    return [{k: v for k, v in row.items() if k and v is not None} for row in csv.DictReader(io.StringIO(whole))]


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a CSV file as one dict per row; a last line without its line end was cut short and is left out."""
    rows = reading(path, _csv)
    if not rows:
        raise Unavailable(f"{path.name} has no rows yet.")
    missing = [name for name in columns if name not in rows[0]]
    if missing:
        raise Unavailable(f"{path.name} has no column {', '.join(missing)}.")
    return rows


@dataclass(frozen=True)
class Metrics:
    """The rows of metrics.csv."""

    rows: list[dict[str, str]]

    @property
    def names(self) -> list[str]:
        """All columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def series(self, name: str) -> dict[int, float]:
        """Values of one metric by step, in order; of a step logged twice (a resumed run) the later row counts."""
        pairs = {}
        for row in self.rows:
            step, cell = number(row.get("step")), row.get(name, "")
            if cell != "" and math.isfinite(step):
                pairs[int(step)] = number(cell)
        return dict(sorted(pairs.items()))

    def last(self, name: str) -> float:
        """The last finite value of one metric, or NaN."""
        values = [value for value in self.series(name).values() if math.isfinite(value)]
        return values[-1] if values else math.nan


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    value = reading(path, lambda file: parse_json(file.read_text(encoding="utf-8"), name=file.name))
    if not isinstance(value, dict):
        raise Unavailable(f"{path.name} does not hold an object.")
    return value


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its size in pixels and the step in its file name (-1: none)."""

    uri: str
    width: int
    height: int
    step: int
    name: str


def read_picture(path: Path, most: int = 500_000) -> Picture:
    """Read an image file; one of more than `most` bytes is embedded as JPEG, at most 1,600 pixels wide."""

    def read(file: Path) -> tuple[bytes, str, tuple[int, int]]:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"it claims to have {image.width} x {image.height} pixels")
            image.load()
            if len(data) <= most and image.format == "PNG":
                return data, "png", image.size
            image.thumbnail((1600, 6400))
            rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, "white")
        flat.paste(rgba, mask=rgba.getchannel("A"))
        buffer = io.BytesIO()
        flat.save(buffer, "JPEG", quality=85)
        return buffer.getvalue(), "jpeg", flat.size

    data, kind, (width, height) = reading(path, read)
    found = re.search(r"(\d+)$", path.stem)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(uri, width, height, int(found[1]) if found else -1, path.name)


def read_pictures(folder: Path, budget: int = 1_500_000, most: int = 12) -> tuple[list[Picture], int]:
    """Read the step_*.png of a folder, newest first, and count those left out.

    At most `most` pictures and `budget` characters are taken; damaged files are passed over.
    """
    paths = sorted(folder.glob("step_*.png"), reverse=True)
    pictures: list[Picture] = []
    for path in paths:
        try:
            picture = read_picture(path)
        except Unavailable:
            continue
        budget -= len(picture.uri)
        if budget < 0 or len(pictures) == most:
            break
        pictures.append(picture)
    return pictures, len(paths) - len(pictures)
