"""Sets of samples on disk: parts written as they are drawn, then npz, PNG, webdataset shards and one CSV.

The same samples give the same bytes: files hold no dates, owners or host names.
"""

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kinetic.data.pixels import from_uint8, to_uint8
from kinetic.errors import KineticError
from kinetic.flow.integration import Trajectory
from kinetic.store.files import replacing, write_text

ENERGIES = ("energy", "field_energy", "early", "late", "late_fraction", "final_power", "drift")
FORMATS = ("png", "npz", "shards")
Array = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """A batch of samples with everything measured about them, on the CPU.

    Attributes:
        seeds: int64 [B].
        labels: int64 [B], or None.
        x: pictures as uint8 [B, H, W, C], anything else as float32 [B, ...].
        energies: {name: float [B]} of ENERGIES.
        power: of the field at the start of each step, [steps, B], at `times` [steps].
        nfe: network evaluations of the batch.
    """

    seeds: Array
    labels: Array | None
    x: Array
    energies: dict[str, Array]
    power: Array
    times: Array
    nfe: int

    def images(self) -> Tensor:
        """Samples as the network made them: float32 [B, C, H, W] in [-1, 1], or [B, ...] if they are no pictures."""
        x = torch.from_numpy(self.x)
        return from_uint8(x) if x.dtype == torch.uint8 else x


def is_picture(shape: Sequence[int]) -> bool:
    """Whether samples of this shape, without the batch axis, are grey or RGB pictures."""
    return len(shape) == 3 and shape[0] in (1, 3)


def part_of(trajectory: Trajectory, seeds: Tensor, labels: Tensor | None, *, exact: bool = False) -> Part:
    """Take from a trajectory what is kept; with `exact` pictures stay float32 [B, C, H, W]."""
    x = trajectory.x.float().cpu()
    whole = exact or not is_picture(x.shape[1:])
    return Part(
        seeds=seeds.cpu().numpy(),
        labels=None if labels is None else labels.cpu().numpy(),
        x=x.numpy() if whole else to_uint8(x).numpy(),
        energies={name: getattr(trajectory, name).cpu().numpy() for name in ENERGIES},
        power=trajectory.power.float().cpu().numpy(),
        times=trajectory.times.double().cpu().numpy(),
        nfe=trajectory.nfe,
    )


def write_part(path: Path, part: Part) -> None:
    """Write a part whole."""
    arrays = {"seeds": part.seeds, "x": part.x, "power": part.power, "times": part.times, "nfe": np.array(part.nfe)}
    if part.labels is not None:
        arrays["labels"] = part.labels
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **part.energies)


def read_part(path: Path) -> Part:
    """Read a part back; raises ValueError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Part(
                seeds=file["seeds"],
                labels=file.get("labels"),
                x=file["x"],
                energies={name: file[name] for name in ENERGIES},
                power=file["power"],
                times=file["times"],
                nfe=int(file["nfe"]),
            )
    except (KeyError, EOFError, zipfile.BadZipFile) as error:
        raise KineticError(f"{path} is damaged ({error}); remove it and run the same command again") from None


def holds(path: Path, seeds: Sequence[int]) -> bool:
    """Whether a part exists that holds exactly these seeds."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return bool(np.array_equal(file["seeds"], np.asarray(seeds)))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def write_npz(path: Path, parts: Iterable[Part], *, count: int) -> None:
    """Write `count` samples as `arr_0`, with labels (if there are any) as `arr_1` and `seeds`, one part at a time."""
    seeds: list[Array] = []
    labels: list[Array] = []
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            for part in parts:
                if not seeds:
                    _header(file, part.x.dtype, (count, *part.x.shape[1:]))
                file.write(np.ascontiguousarray(part.x).tobytes())
                seeds.append(part.seeds)
                labels += [] if part.labels is None else [part.labels]
        for name, columns in (("arr_1", labels), ("seeds", seeds)):
            if columns:
                buffer = io.BytesIO()
                np.save(buffer, np.concatenate(columns), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def _header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def png(pixels: Array) -> bytes:
    """Encode uint8 [H, W, C] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_pngs(folder: Path, parts: Iterable[Part]) -> None:
    """Write each picture to FOLDER/SEED.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for seed, pixels in zip(part.seeds.tolist(), part.x, strict=True):
            with replacing(folder / f"{seed:06d}.png") as beside:
                beside.write_bytes(png(pixels))


def write_tars(folder: Path, parts: Iterable[Part], *, per_shard: int = 5000) -> None:
    """Write webdataset shards FOLDER/samples-NNNNN.tar: SEED.png (SEED.npy where it is no picture), and SEED.cls."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, number = _files(parts), 0
    while group := list(islice(rows, per_shard)):
        path = folder / f"samples-{number:05d}.tar"
        with replacing(path) as beside, tarfile.open(beside, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in chain.from_iterable(group):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
        number += 1


def _files(parts: Iterable[Part]) -> Iterator[list[tuple[str, bytes]]]:
    for part in parts:
        for row, seed in enumerate(part.seeds.tolist()):
            files = [_encoded(f"{seed:06d}", part.x[row])]
            if part.labels is not None:
                files.append((f"{seed:06d}.cls", str(int(part.labels[row])).encode()))
            yield files


def _encoded(key: str, x: Array) -> tuple[str, bytes]:
    if x.dtype == np.uint8:
        return f"{key}.png", png(x)
    buffer = io.BytesIO()
    np.save(buffer, x, allow_pickle=False)
    return f"{key}.npy", buffer.getvalue()


def write_energies(path: Path, settings: dict[str, Iterable[Part]]) -> None:
    """Write one row a sample; a column `setting` comes first where there are several."""
    named = len(settings) > 1
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(["setting"] if named else []), "seed", "label", *ENERGIES, "nfe"])
    for setting, parts in settings.items():
        for part in parts:
            labels = [""] * len(part.seeds) if part.labels is None else part.labels.tolist()
            columns = zip(*(part.energies[name].tolist() for name in ENERGIES), strict=True)
            for seed, label, values in zip(part.seeds.tolist(), labels, columns, strict=True):
                figures = [f"{value:.9g}" for value in values]
                writer.writerow([*([setting] if named else []), seed, label, *figures, part.nfe])
    write_text(path, buffer.getvalue())
