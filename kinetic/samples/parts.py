"""Batches of samples on disk, as they were drawn: what every file is made from, and what an interruption leaves."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.data.pixels import from_uint8, to_uint8
from kinetic.errors import KineticError
from kinetic.flow.trajectory import Trajectory
from kinetic.samples.table import NO_LABEL, Array, Column, SampleTable
from kinetic.store.arrays import read_npz_as, write_npz
from kinetic.store.plain import parse_json

# What an archive holds beside the columns.
FIXED = ("seeds", "labels", "x", "power", "times", "nfe", "kinds", "pictures")
SIGNS = (-1, 0, 1, None)  # of a measure


@dataclass(frozen=True)
class Part:
    """A batch of samples: its rows, and the samples as float32 [B, ...] or, pictures alone, as uint8 [B, H, W, C]."""

    table: SampleTable
    x: Array
    pictures: bool

    def __len__(self) -> int:
        return len(self.x)

    def of_seeds(self, seeds: Collection[int]) -> "Part":
        """The rows of some seeds alone."""
        keep = np.isin(self.table.seeds, list(seeds))
        return replace(self, table=self.table.rows(keep), x=self.x[keep])

    def images(self) -> Tensor:
        """Samples as the network made them: float32 [B, C, H, W] in [-1, 1], or [B, ...] if they are no pictures."""
        x = torch.from_numpy(self.x)
        return from_uint8(x) if x.dtype == torch.uint8 else x

    def pixels(self) -> Array:
        """Pictures as uint8 [B, H, W, C]; anything else as it is."""
        exact = self.pictures and self.x.dtype != np.uint8
        return to_uint8(torch.from_numpy(self.x)).numpy() if exact else self.x


def part_of(drawn: Trajectory, seeds: Tensor, labels: Tensor | None, *, pictures: bool, exact: bool = False) -> Part:
    """Take from a trajectory what is kept; `pictures` become bytes, with `exact` they stay float32 [B, C, H, W]."""
    part = Part(SampleTable.of(drawn, seeds, labels), drawn.x.float().cpu().numpy(), pictures)
    return part if exact else replace(part, x=part.pixels())


def write_part(path: Path, part: Part) -> None:
    """Write a part whole."""
    table = part.table
    arrays = {name: getattr(table, name) for name in ("seeds", "power", "times", "nfe")} | {"x": part.x}
    arrays["pictures"] = np.array(part.pictures)
    if (table.labels != NO_LABEL).any():
        arrays["labels"] = table.labels
    write_npz(path, {"kinds": np.array(json.dumps(table.kinds)), **arrays, **table.columns})


def read_part(path: Path) -> Part:
    """Read a part back; raises KineticError if it is damaged."""
    return read_npz_as(path, _part, fault="is damaged", advice="remove it and run the same command again")


def _part(arrays: dict[str, Array]) -> Part:
    seeds, x = arrays["seeds"], arrays["x"]
    if seeds.ndim != 1 or seeds.dtype != np.int64 or x.ndim < 2 or x.dtype not in (np.uint8, np.float32):
        raise ValueError("it holds no samples with seeds")
    numbers = {name: values for name, values in arrays.items() if name not in ("x", "kinds", "pictures")}
    if any(values.dtype.kind not in "iuf" for values in numbers.values()):
        raise ValueError("a column is no numbers")
    columns = {name: values.astype(np.float64) for name, values in numbers.items() if name not in FIXED}
    rows = [*columns.values(), arrays.get("labels", seeds)]
    if any(values.shape != seeds.shape for values in rows) or len(x) != len(seeds):
        raise ValueError("its columns differ in length")
    if arrays["times"].ndim != 1 or arrays["power"].shape != (len(arrays["times"]), len(seeds)):
        raise ValueError("its power is not that of its samples at its times")
    kinds = _kinds(str(arrays["kinds"])) if "kinds" in arrays else {}
    finite = np.isfinite(columns["energy"]) if "energy" in columns else np.ones(len(seeds), bool)
    if x.dtype != np.uint8:
        finite &= np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    table = SampleTable(
        seeds=seeds,
        labels=arrays.get("labels", np.full(len(seeds), NO_LABEL, np.int64)),
        finite=finite,
        nfe=np.broadcast_to(arrays["nfe"], seeds.shape).astype(np.int64),
        columns=columns,
        kinds={name: Column(*kinds.get(name, ())) for name in columns},
        power=arrays["power"],
        times=arrays["times"],
    )
    return Part(table, x, bool(arrays["pictures"]) if "pictures" in arrays else x.dtype == np.uint8)


def _kinds(text: str) -> dict[str, list[Any]]:
    """What the columns are, by name: unit and sign; ValueError where the text says anything else."""
    found = parse_json(text, name="the table of its columns")
    if not isinstance(found, dict):
        raise ValueError("the table of its columns is none")
    for kind in found.values():
        if not (isinstance(kind, list) and len(kind) == 2 and isinstance(kind[0], str)) or kind[1] not in SIGNS:
            raise ValueError("the table of its columns is not one of units and signs")
    return found


def holds(path: Path, seeds: Sequence[int]) -> bool:
    """Whether a part exists that is whole and holds exactly these seeds; one that is damaged is drawn again."""
    try:
        return bool(np.array_equal(read_part(path).table.seeds, np.asarray(seeds)))
    except (KineticError, FileNotFoundError):
        return False
