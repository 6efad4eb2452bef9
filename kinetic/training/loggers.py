"""Loggers of a run: a CSV that is always there, Weights & Biases that never stops a run, and TensorBoard."""

import csv
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from kinetic.errors import KineticError
from kinetic.store.files import replacing, set_aside


class MetricsCSV(Logger):
    """Writes metrics.csv: step, epoch, then one column a metric, in one row a step, cells empty where not logged.

    A row that is already in the file for a later step than `resume_step` belongs to the part of an interrupted run
    that is trained again, and is dropped. A damaged file is set aside at the first save, and one line tells of it.
    """

    def __init__(self, folder: Path | str, *, resume_step: int | None = None, flush_every: int = 20) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.flush_every = flush_every
        self.rows: dict[int, dict[str, Any]] = {}
        self._pending = 0
        self._trouble: str | None = None
        if resume_step is not None and self.path.is_file():
            try:
                self.rows = {step: row for step, row in self._read().items() if step <= resume_step}
            except (ValueError, csv.Error) as error:
                self._trouble = str(error).splitlines()[0][:200]
        self._missing = resume_step if resume_step and not self.path.is_file() else None

    def _read(self) -> dict[int, dict[str, Any]]:
        """The rows of the file by their steps, without empty cells; ValueError where it is damaged."""
        rows: dict[int, dict[str, Any]] = {}
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or ())
            if names[:2] != ["step", "epoch"] or len(set(names)) < len(names):
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
        row = self.rows.setdefault(int(step or 0), {})
        row.update({key: value for key, value in metrics.items() if key != "epoch"})
        if "epoch" in metrics:
            row["epoch"] = int(metrics["epoch"])
        self._pending += 1
        if self._pending >= self.flush_every or any(not key.startswith("train/") for key in metrics if key != "epoch"):
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file."""
        if not self._pending:
            return
        self._set_right()
        names = dict.fromkeys(key for row in self.rows.values() for key in row if key not in ("step", "epoch"))
        with replacing(self.path) as beside, open(beside, "w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "epoch", *names], restval="")
            writer.writeheader()
            writer.writerows({**row, "step": step} for step, row in sorted(self.rows.items()))
        self._pending = 0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


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
