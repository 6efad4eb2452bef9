"""Tables of a run that grow by one validation at a time, and survive being interrupted."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kinetic.errors import first_line
from kinetic.store.files import replacing, set_aside

VALUES = 10**6  # of a table whose size in bytes is less


class StepTable:
    """A parquet file whose rows belong to steps: those of a step are replaced together, and the file is always whole.

    A file that is damaged or is another table is set aside, and a new one begun.

    Args:
        path: of the file.
        resume_step: keep what is in the file up to this step; later rows belong to a part that is trained again.
        columns: that it has beside "step", at least.
        expected: whether there are rows up to `resume_step`, as far as is known.

    Attributes:
        trouble: why rows of earlier steps are not in the table, in one line; None where they are.
    """

    def __init__(
        self, path: Path, *, resume_step: int = 0, columns: Collection[str] = (), expected: bool = False
    ) -> None:
        self.path = path
        self.parts: dict[int, pa.Table] = {}
        self.trouble: str | None = None
        if resume_step > 0 and path.is_file():
            try:
                self.parts = _parts(path, resume_step, columns)
            except (pa.ArrowException, OSError, ValueError) as error:
                if isinstance(error, PermissionError):
                    raise
                self._set_aside(error)
        elif resume_step > 0 and expected:
            self.trouble = f"{path.name} is missing: its rows up to step {resume_step} are gone, later ones are stored"

    def write(self, step: int, columns: dict[str, Any], *, about: dict[str, str] | None = None) -> None:
        """Set the rows of `step`, columns of equal length, and write the file; `about` goes into its metadata."""
        count = max(len(values) for values in columns.values())
        new = pa.table({"step": pa.array([step] * count, pa.int64()), **columns})
        earlier = {key: part for key, part in self.parts.items() if key != step}
        try:
            whole = _joined({**earlier, step: new})
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:  # columns of other types
            self._set_aside(error)
            earlier, whole = {}, new
        self.parts = {**earlier, step: new}
        if about:
            whole = whole.replace_schema_metadata(about)
        with replacing(self.path) as beside:
            pq.write_table(whole, beside)

    def take_trouble(self) -> str | None:
        """The trouble that there was since the last call."""
        trouble, self.trouble = self.trouble, None
        return trouble

    def _set_aside(self, error: Exception) -> None:
        aside = f"is set aside as {set_aside(self.path).name}" if self.path.is_file() else "is no longer there"
        what = f"{self.path.name} is damaged or another table ({first_line(error)})"
        self.trouble = f"{what}: it {aside}, and a new one begins"


def read_parquet(path: Path) -> pa.Table:
    """Read a parquet file; ValueError where it claims to hold more values than its size lets one expect."""
    file, size = pq.ParquetFile(path), path.stat().st_size
    about = file.metadata
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    values = [group.column(j).num_values for group in groups for j in range(group.num_columns)]
    rows = [about.num_rows, *(group.num_rows for group in groups)]
    if min([*values, *rows]) < 0 or max(sum(values), sum(rows) * about.num_columns) > max(VALUES, size):
        raise ValueError(f"it claims to have {about.num_rows:,} rows of {about.num_columns:,} columns")
    return file.read()


def _parts(path: Path, last: int, columns: Collection[str]) -> dict[int, pa.Table]:
    """The rows of every step up to `last`; ValueError where it is not such a table."""
    table = read_parquet(path)
    absent = [name for name in ("step", *columns) if name not in table.column_names]
    if absent or len(set(table.column_names)) < table.num_columns:
        raise ValueError(f"it has no column {absent[0]!r}" if absent else "it has columns of the same name")
    steps = table.column("step")
    if not pa.types.is_int64(steps.type) or steps.null_count:
        raise ValueError("its steps are no whole numbers")
    table.validate(full=True)
    kept = sorted(value for value in pc.unique(steps).to_pylist() if value <= last)
    return {step: table.filter(pc.equal(steps, step)) for step in kept}


def _joined(parts: dict[int, pa.Table]) -> pa.Table:
    return pa.concat_tables([parts[key] for key in sorted(parts)], promote_options="default")
