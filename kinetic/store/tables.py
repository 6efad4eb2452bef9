"""Tables of a run that grow by one validation at a time, and survive being interrupted."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kinetic.store.files import replacing


class StepTable:
    """A parquet file whose rows belong to steps: those of a step are replaced together, and the file is always whole.

    Args:
        path: of the file.
        resume_step: keep what is in the file up to this step; later rows belong to a part that is trained again.
    """

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        self.path = path
        self.parts: dict[int, pa.Table] = {}
        if resume_step > 0 and path.is_file():
            table = pq.read_table(path)
            steps = table.column("step")
            for step in sorted({value for value in steps.to_pylist() if value <= resume_step}):
                self.parts[step] = table.filter(pa.compute.equal(steps, step))

    def write(self, step: int, columns: dict[str, Any], *, about: dict[str, str] | None = None) -> None:
        """Set the rows of `step`, columns of equal length, and write the file; `about` goes into its metadata."""
        count = max(len(values) for values in columns.values())
        self.parts[step] = pa.table({"step": pa.array([step] * count, pa.int64()), **columns})
        whole = pa.concat_tables([self.parts[key] for key in sorted(self.parts)], promote_options="default")
        if about:
            whole = whole.replace_schema_metadata(about)
        with replacing(self.path) as beside:
            pq.write_table(whole, beside)
