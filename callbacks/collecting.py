"""The samples of one validation, gathered over all processes once for all monitors: one row a seed."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from kinetic.flow.motion import IntegrationError
from kinetic.flow.trajectory import Trajectory
from kinetic.ranks import Parcel, gather
from kinetic.samples.table import Array, Column, SampleTable

from .telling import monitoring, say

ARRAYS = ("seeds", "labels", "finite", "nfe", "power", "times")  # of a SampleTable


class Collector:
    """Collects what the validation steps of this process return; `keep` says in which type samples are kept, too.

    All monitors of a trainer share one (`collector_of`): each tells it of every batch, and it takes a batch once.
    """

    def __init__(self) -> None:
        self.keep: torch.dtype | None = None
        self.parts: list[SampleTable] = []
        self.pictures: dict[int, Tensor] = {}
        self.errors: list[str] = []
        self.told: set[tuple[str, str]] = set()
        self._seen: set[tuple[int, int]] = set()
        self._table: SampleTable | None = None
        self._gathered = False

    def reset(self) -> None:
        """Forget everything, as before a validation."""
        self.keep, self.parts, self.pictures, self.errors = None, [], {}, []
        self._seen, self._table, self._gathered = set(), None, False

    def want(self, dtype: torch.dtype) -> None:
        """Ask for the samples of this validation, in `dtype` or a wider one."""
        self.keep = dtype if self.keep is None else torch.promote_types(self.keep, dtype)

    def add(self, outputs: Any, batch: Any, place: tuple[int, int] | None = None) -> None:
        """Take in the outputs of one validation step, if they are a Trajectory of {"seeds": int64 [B], ...}.

        `place` is the number of the loader and of the batch in it: what was taken in already is passed over.
        """
        if place is not None and place in self._seen:
            return
        self._seen |= {place} if place is not None else set()
        if isinstance(outputs, IntegrationError):
            self.errors.append(str(outputs))
        elif isinstance(outputs, Trajectory):
            self._add(outputs, batch)

    def _add(self, drawn: Trajectory, batch: Any) -> None:
        if not isinstance(batch, Mapping) or "seeds" not in batch:
            self.errors.append('the validation step returned a Trajectory, but its batch has no entry "seeds"')
            return
        seeds = torch.as_tensor(batch["seeds"]).cpu()
        if seeds.shape != drawn.x.shape[:1]:
            self.errors.append(
                f"{len(drawn.x)} samples came with seeds of shape {tuple(seeds.shape)}; pass one a sample"
            )
            return
        self.parts.append(SampleTable.of(drawn, seeds, batch.get("labels")))
        if self.keep is not None:
            kept = drawn.x.detach().to("cpu", self.keep)
            self.pictures.update(zip(seeds.tolist(), kept, strict=True))

    def table(self) -> SampleTable | None:
        """The rows of all processes (all must call this), None without any; they are gathered once a validation."""
        if not self._gathered:
            gathered = gather(_parcel(self.errors, [part for part in self.parts if len(part)]))
            self.errors = [error for parcel in gathered for error in parcel.note["errors"]]
            tables = _tables(gathered)
            self._table, self._gathered = SampleTable.join(tables) if tables else None, True
        return self._table

    @property
    def holds_points(self) -> bool:
        """Whether the samples kept here are points [D], not images."""
        return any(picture.ndim == 1 for picture in self.pictures.values())

    def select(self, seeds: Array) -> Tensor:
        """Gather the pictures of some seeds -> [n, ...] in their order (all processes must call this)."""
        wanted = [int(seed) for seed in seeds]
        own = [seed for seed in wanted if seed in self.pictures]
        tensors = {"seeds": torch.tensor(own), "x": torch.stack([self.pictures[seed] for seed in own])} if own else {}
        found: dict[int, Tensor] = {}
        for part in (parcel.tensors for parcel in gather(Parcel(tensors=tensors)) if parcel.tensors):
            found = dict(zip(part["seeds"].tolist(), part["x"], strict=True)) | found
        return torch.stack([found[seed] for seed in wanted])


_COLLECTORS: "WeakKeyDictionary[Trainer, Collector]" = WeakKeyDictionary()


def collector_of(trainer: Trainer) -> Collector:
    """The one collector of a trainer."""
    if trainer not in _COLLECTORS:
        _COLLECTORS[trainer] = Collector()
    return _COLLECTORS[trainer]


class Monitor(Callback):
    """What watches the samples of every validation: it hands all of them to the trainer's collector."""

    _off = False  # whether it has given up on this training
    wants: torch.dtype | None = None  # in which type it needs the samples themselves, None for their rows alone

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew, whatever became of the last validation."""
        collector_of(trainer).reset()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for the samples."""
        if self.wants is not None and monitoring(trainer) and not self._off:
            collector_of(trainer).want(self.wants)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch of trajectories."""
        if monitoring(trainer) and not self._off:
            collector_of(trainer).add(outputs, batch, (dataloader_idx, batch_idx))


def _parcel(errors: list[str], parts: list[SampleTable]) -> Parcel:
    """The errors and the rows of this process."""
    if not parts:
        return Parcel({"errors": errors})
    table = SampleTable.join(parts)
    arrays = {name: getattr(table, name) for name in ARRAYS} | {f"column {n}": v for n, v in table.columns.items()}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
    return Parcel({"errors": errors, "columns": list(table.columns), "kinds": table.kinds}, tensors)


def _tables(parcels: list[Parcel]) -> list[SampleTable]:
    """The rows of the processes that have some."""
    tables = []
    for note, tensors in ((parcel.note, parcel.tensors) for parcel in parcels if parcel.tensors):
        tables.append(
            SampleTable(
                **{name: tensors[name].numpy() for name in ARRAYS},
                columns={name: tensors[f"column {name}"].numpy() for name in note["columns"]},
                kinds={name: Column(*kind) for name, kind in note["kinds"].items()},
            )
        )
    return tables


def validation_table(trainer: Trainer, module: LightningModule, who: str) -> SampleTable | None:
    """Gather what a validation drew (all processes must call this); one line of `who` where something is missing."""
    collector = collector_of(trainer)
    table = collector.table()
    expected = getattr(getattr(module, "samples", None), "num", None)
    trouble = None
    if collector.errors:
        trouble = collector.errors[0]
    elif expected == 0:
        trouble = "the number of samples is 0 (model.samples.num)"
    elif table is None:
        trouble = "no validation step returned a Trajectory"
    elif isinstance(expected, int) and len(table) < expected:
        trouble = f"this validation drew {len(table)} of {expected} samples"
    if trouble is not None and (who, trouble) not in collector.told:
        collector.told.add((who, trouble))
        say(trainer, f"{who}: {trouble}; training goes on" + (" without it" if table is None else ""))
    return table
