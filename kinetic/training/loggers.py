"""Loggers of a run: a CSV that is always there, Weights & Biases that never stops a run, and TensorBoard."""

import csv
import io
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from kinetic.errors import KineticError
from kinetic.store.files import append, replacing, set_aside

Row = dict[str, str]
Rows = dict[int, Row]  # cells by their columns, rows by their steps
FIXED = ("step", "epoch")


class MetricsCSV(Logger):
    """Writes metrics.csv: step, epoch, then one column a metric, in one row a step, cells empty where not logged.

    New rows are appended. The newest one may still get cells, so `save` holds it back, and `flush` writes it too. Where
    it gets some after that, or where there are new columns, the file is written beside its place and renamed.

    A row that is already in the file for a later step than `resume_step` belongs to the part of an interrupted run
    that is trained again, and is dropped. A damaged file is set aside at the first save, and one line tells of it; a
    last line without its end was cut by a kill, and is dropped.
    """

    def __init__(self, folder: Path | str, *, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._waiting: Rows = {}  # what is not in the file yet, whole rows
        self._kept: Rows | None = {}  # what the file is to begin with; None once it does
        self._columns = list(FIXED)
        self._size = 0  # bytes of the file
        self._last, self._last_row, self._last_at = -1, Row(), 0  # step, cells and place of its last row
        self._trouble: str | None = None
        if resume_step is not None and self.path.is_file():
            try:
                kept = self._kept = {step: row for step, row in self._read().items() if step <= resume_step}
                self._columns = list(dict.fromkeys([*FIXED, *(name for row in kept.values() for name in row)]))
            except (ValueError, csv.Error) as error:
                self._trouble = _line_of(error)
        self._missing = resume_step if resume_step and not self.path.is_file() else None

    def _read(self) -> Rows:
        """The rows of the file by their steps, without empty cells; ValueError where it is damaged."""
        rows: Rows = {}
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1].decode()  # a kill may have cut the last line
        reader = csv.DictReader(io.StringIO(whole, newline=""), strict=True)
        names = list(reader.fieldnames or ())
        if tuple(names[:2]) != FIXED or len(set(names)) < len(names):
            raise ValueError("its columns are not those that were written")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num} has more or fewer cells than there are columns")
            step = int(row.pop("step"))
            if step in rows:
                raise ValueError(f"step {step} has two rows")
            rows[step] = {name: value for name, value in row.items() if value != ""}
            for value in rows[step].values():
                float(value)
        return rows

    def _set_right(self) -> None:
        """Set a damaged file aside, now that the folder is written to, and tell of it or of one that is missing."""
        if self._trouble is not None and self.path.is_file():
            aside = set_aside(self.path)
            tqdm.write(
                f"{self.path.name} is damaged ({self._trouble}): it is set aside as {aside.name}, and a new one begins",
                file=sys.stderr,
            )
        elif self._missing is not None:
            tqdm.write(
                f"{self.path.name} is missing: what was logged up to step {self._missing} is gone", file=sys.stderr
            )
        self._trouble = self._missing = None

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Name of the run folder."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration lies beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of `step`."""
        number = int(step or 0)
        before = self._waiting.get(number) or (self._last_row if number == self._last else {})
        row = before | {name: str(value) for name, value in metrics.items() if name not in FIXED}
        if "epoch" in metrics:
            row["epoch"] = str(int(metrics["epoch"]))
        if row != before:
            self._waiting[number] = row

    @rank_zero_only
    def save(self) -> None:
        """Write what is complete: all rows but the newest."""
        newest = max(self._waiting, default=0)
        self._write({step: row for step, row in self._waiting.items() if step < newest})

    @rank_zero_only
    def flush(self) -> None:
        """Write all there is."""
        self._write(self._waiting)

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.flush()

    def _write(self, rows: Rows) -> None:
        """Add rows to the file, of which each replaces one of the same step."""
        if not rows:
            return
        names = list(dict.fromkeys([*self._columns, *(name for _, row in sorted(rows.items()) for name in row)]))
        first, added = min(rows), rows
        if self._is_ours() and len(names) == len(self._columns) and first >= self._last:
            start, head = (self._size if first > self._last else self._last_at), []
        else:
            before = self._before()
            added = before | {step: before.get(step, {}) | row for step, row in rows.items()}
            start, head = 0, [_line(names)]
            self._set_right()
        lines = head + [_line([str(step), *map(row.get, names[1:])]) for step, row in sorted(added.items())]
        data = b"".join(lines)
        if start and start == self._size:
            append(self.path, data, at=start)
        else:
            begin = self.path.read_bytes()[:start] if start else b""
            with replacing(self.path) as beside:
                beside.write_bytes(begin + data)
        self._size, self._columns, self._kept = start + len(data), names, None
        self._last, self._last_row = max(added.items())
        self._last_at = self._size - len(lines[-1])
        self._waiting = {step: row for step, row in self._waiting.items() if step not in rows}

    def _is_ours(self) -> bool:
        """Whether the file is as this logger left it."""
        return self._kept is None and self.path.is_file() and self.path.stat().st_size == self._size

    def _before(self) -> Rows:
        """The rows that the file is to keep when it is written anew."""
        if self._kept is not None or not self.path.is_file():
            return self._kept or {}
        try:
            return self._read()
        except (ValueError, csv.Error) as error:
            self._trouble = _line_of(error)
            return {}


def _line(cells: Iterable[str | None]) -> bytes:
    """One line of a CSV file; None is an empty cell."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


def _line_of(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def is_rank_zero() -> bool:
    """Whether this process is the first, as far as Lightning knows."""
    return getattr(rank_zero_only, "rank", 0) == 0


def tensorboard_logger(folder: Path) -> TensorBoardLogger:
    """Make a logger that writes into folder/tensorboard; raises ValueError where TensorBoard is not installed."""
    try:
        return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    except ModuleNotFoundError:
        raise KineticError(
            "TensorBoard is not installed: uv sync --extra tensorboard, or leave out --run.tensorboard"
        ) from None
