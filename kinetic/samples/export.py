"""Sets of samples as files for other programs: npz, PNG, webdataset shards a part at a time, and tables of their rows.

The same samples give the same bytes: files hold no dates, owners or host names.
"""

import csv
import io
import json
import math
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from kinetic.samples.parts import Part
from kinetic.samples.table import NO_LABEL, Array, SampleTable
from kinetic.store.files import replacing, write_text

FORMATS = ("png", "npz", "shards")
ENCODERS = min(8, os.cpu_count() or 1)  # threads that encode pictures; compression holds no lock


Add = Callable[[Part], None]  # takes the parts of a setting one after another


@contextmanager
def npz_file(path: Path, *, count: int) -> Iterator[Add]:
    """Write `count` samples as `arr_0`, with labels (if there are any) as `arr_1`, and `seeds`."""
    tables: list[SampleTable] = []
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:

            def add(part: Part) -> None:
                x = part.pixels()
                if not tables:
                    _header(file, x.dtype, (count, *x.shape[1:]))
                file.write(np.ascontiguousarray(x).tobytes())
                tables.append(part.table)

            yield add
        labels = np.concatenate([table.labels for table in tables])
        for name, values in (("arr_1", labels), ("seeds", np.concatenate([table.seeds for table in tables]))):
            if name != "arr_1" or (labels != NO_LABEL).any():
                buffer = io.BytesIO()
                np.save(buffer, values, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def _header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


@contextmanager
def png_folder(folder: Path) -> Iterator[Add]:
    """Write each picture to FOLDER/SEED.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(ENCODERS) as pool:

        def add(part: Part) -> None:
            pixels = part.pixels()
            for seed, content in zip(part.table.seeds.tolist(), pool.map(png, pixels), strict=True):
                with replacing(folder / f"{seed:06d}.png") as beside:
                    beside.write_bytes(content)

        yield add


def png(pixels: Array) -> bytes:
    """Encode uint8 [H, W, C] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def tar_shards(folder: Path, *, per_shard: int = 5000) -> Iterator[Add]:
    """Write webdataset shards FOLDER/samples-NNNNN.tar: SEED.png (SEED.npy where it is no picture), and SEED.cls."""
    folder.mkdir(parents=True, exist_ok=True)
    written, tar = 0, cast(Any, None)
    with ExitStack() as shard:

        def add(part: Part) -> None:
            nonlocal written, tar
            for files in _files(part):
                if written % per_shard == 0:
                    shard.close()
                    path = shard.enter_context(replacing(folder / f"samples-{written // per_shard:05d}.tar"))
                    tar = shard.enter_context(tarfile.open(path, "w", format=tarfile.USTAR_FORMAT))
                for name, content in files:
                    header = tarfile.TarInfo(name)
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
                written += 1

        yield add


def _files(part: Part) -> Iterator[list[tuple[str, bytes]]]:
    for seed, label, x in zip(part.table.seeds.tolist(), part.table.labels.tolist(), part.pixels(), strict=True):
        files = [_encoded(f"{seed:06d}", x)]
        if label != NO_LABEL:
            files.append((f"{seed:06d}.cls", str(label).encode()))
        yield files


def _encoded(key: str, x: Array) -> tuple[str, bytes]:
    if x.dtype == np.uint8:
        return f"{key}.png", png(x)
    buffer = io.BytesIO()
    np.save(buffer, x, allow_pickle=False)
    return f"{key}.npy", buffer.getvalue()


def write_csv(path: Path, tables: Mapping[str, SampleTable], *, without: tuple[str, ...] = ()) -> None:
    """Write one row a sample, with all columns but those `without`; `setting` comes first where there are several."""
    named = len(tables) > 1
    names = [n for n in dict.fromkeys(n for table in tables.values() for n in table.columns) if n not in without]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(["setting"] if named else []), "seed", "label", *names, "nfe"])
    for setting, table in tables.items():
        columns = [table.columns[name].tolist() if name in table.columns else [""] * len(table) for name in names]
        for row, (seed, label, nfe) in enumerate(zip(table.seeds, table.labels, table.nfe, strict=True)):
            cells = [value if value == "" else f"{value:.9g}" for value in (column[row] for column in columns)]
            writer.writerow([*([setting] if named else []), seed, "" if label == NO_LABEL else label, *cells, nfe])
    write_text(path, buffer.getvalue())


def write_parquet(path: Path, tables: Mapping[str, SampleTable]) -> None:
    """Write the rows of all settings, one a sample, with the unit and the sign of every column in the metadata."""
    parts = []
    for setting, table in tables.items():
        labels = pa.array(table.labels, pa.int64(), mask=table.labels == NO_LABEL)
        fixed = {"seed": table.seeds, "label": labels, "finite": table.finite, "nfe": table.nfe}
        parts.append(pa.table({"setting": pa.array([setting] * len(table)), **fixed, **table.columns}))
    kinds = {name: kind for table in tables.values() for name, kind in table.kinds.items()}
    whole = pa.concat_tables(parts, promote_options="default").replace_schema_metadata({"columns": json.dumps(kinds)})
    with replacing(path) as beside:
        pq.write_table(whole, beside)


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of numbers or texts, of one length, as CSV; None and what is not finite are empty cells.

    Whole numbers are written whole, as seeds have to be.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([_text(value) for value in row])
    write_text(path, buffer.getvalue())


def _text(value: Any) -> str:
    if isinstance(value, str | Integral):
        return str(value)
    return "" if value is None or not math.isfinite(value) else f"{value:.9g}"
