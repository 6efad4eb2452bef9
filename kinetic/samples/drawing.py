"""Drawing many samples under Lightning's `Trainer.predict`: on one process or several, and batch by batch to disk."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD
from kinetic.flow.field import Field
from kinetic.flow.measures import Measure
from kinetic.flow.motion import IntegrationError
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.seeds import Labels, labels_for
from kinetic.flow.trajectory import Trajectory
from kinetic.samples.parts import Part, holds, part_of, read_part, write_part
from kinetic.tensors import chunks

Job = dict[str, Any]  # {"setting": str, "number": int, "seeds": int64 [B], "labels": int64 [B] or None}


@dataclass(frozen=True)
class Plan:
    """Which samples there are to draw, cut into batches once and for all.

    A part holds one batch under one setting. The cut depends on the seeds and the batch size alone, and whole batches
    are dealt to processes, so neither an interruption nor the number of processes changes a single byte.
    """

    folder: Path
    settings: Sequence[str]
    seeds: Sequence[int]
    labels: Labels
    num_classes: int | None
    batch_size: int
    kept: frozenset[int] | None = None  # seeds of the samples that are not discarded; None keeps all

    def __post_init__(self) -> None:
        if not self.seeds:
            raise KineticError("there is nothing to draw: pass --num of 1 or more")
        if self.batch_size < 1:
            raise KineticError(f"--batch-size must be at least 1, got {self.batch_size}")
        self.label_of(self.seeds[:1])

    def label_of(self, seeds: Sequence[int]) -> Tensor | None:
        """Labels int64 [n] of seeds, None for an unconditional network."""
        return labels_for(torch.tensor(list(seeds)), self.labels, self.num_classes)

    def batches(self) -> Iterator[tuple[int, Sequence[int]]]:
        """Each batch of seeds with its number."""
        for number, part in enumerate(chunks(len(self.seeds), self.batch_size)):
            yield number, self.seeds[part]

    def path(self, setting: str, number: int) -> Path:
        """Where a part lies."""
        return self.folder / setting.replace(" ", "-") / f"{number:06d}.npz"

    def missing(self) -> list[Job]:
        """The batches that are not drawn yet."""
        return [
            {"setting": setting, "number": number, "seeds": torch.tensor(seeds), "labels": self.label_of(seeds)}
            for setting in self.settings
            for number, seeds in self.batches()
            if not holds(self.path(setting, number), seeds)
        ]

    def parts(self) -> Iterator[dict[str, Part]]:
        """Read batch after batch, each under every setting, in the order of the seeds, without what is discarded."""
        for number, seeds in self.batches():
            if self.kept is None or not self.kept.isdisjoint(seeds):
                yield {setting: self._part(setting, number) for setting in self.settings}

    def _part(self, setting: str, number: int) -> Part:
        part = read_part(self.path(setting, number))
        return part if self.kept is None else part.of_seeds(self.kept)

    def keeping(self, seeds: Sequence[int]) -> "Plan":
        """The same, but all samples other than those of `seeds` are discarded."""
        return replace(self, kept=frozenset(seeds))

    @property
    def chosen(self) -> Sequence[int]:
        """Seeds of the samples that are not discarded."""
        return self.seeds if self.kept is None else [seed for seed in self.seeds if seed in self.kept]


class SamplingModule(LightningModule):
    """Fields and samplers by the name of the setting that samples are drawn under."""

    def __init__(
        self,
        fields: Mapping[str, Field],
        samplers: Mapping[str, Sampler],
        plan: Plan,
        *,
        precision: str = "32",
        compile: bool = False,
        measures: Sequence[Measure] = STANDARD,
        exact: bool = False,
    ) -> None:
        """Say what is drawn; `precision` and `compile` hold for the networks. With `exact` pictures stay floats."""
        super().__init__()
        networks = [field.net for field in fields.values() if isinstance(field.net, nn.Module)]
        self.networks = nn.ModuleList(networks)  # where Lightning finds them, to move them to the device
        self.fields, self.samplers, self.plan = dict(fields), dict(samplers), plan
        self.draw_precision, self.measures = precision, tuple(measures)
        self.exact = exact
        for network in networks if compile else ():
            network.compile()

    def predict_dataloader(self) -> DataLoader:
        """This process's share of the batches that are missing, as the first process sees them."""
        assert self.trainer is not None
        seen = self.plan.missing() if self.trainer.is_global_zero else []
        jobs = self.trainer.strategy.broadcast(seen)
        share = jobs[self.trainer.global_rank :: self.trainer.world_size] or jobs[:1]  # none may stand idle
        return DataLoader(Jobs(share), batch_size=None, collate_fn=_same)

    def transfer_batch_to_device(self, batch: Job, device: torch.device, dataloader_idx: int) -> Job:
        """Leave seeds and labels on the host, where noise is drawn and labels are checked."""
        return batch

    def predict_step(self, batch: Job, batch_idx: int, dataloader_idx: int = 0) -> Trajectory:
        """Draw the samples of {"setting", "seeds", "labels"}; what goes wrong becomes a KineticError with advice."""
        sampler, seeds = self.samplers[batch["setting"]], batch["seeds"].tolist()
        field = self.fields[batch["setting"]]
        options: dict[str, Any] = {"labels": batch["labels"], "sampler": sampler, "precision": self.draw_precision}
        try:
            return draw(field, seeds, device=self.device, measures=self.measures, **options)
        except IntegrationError as error:
            raise KineticError(f"seeds {seeds[0]} to {seeds[-1]}: {error}") from None
        except torch.OutOfMemoryError:
            raise KineticError(
                f"out of memory with {len(seeds)} samples at a time; pass a smaller --batch-size"
            ) from None


class Jobs(Dataset):
    """Batches that are cut already."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> Job:
        return self.jobs[index]


def _same(item: Any) -> Any:
    return item


class PartWriter(Callback):
    """Writes every batch of a SamplingModule while the next is drawn, so that an interruption costs a batch or two."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "kinetic-parts")
        self._writing: Future[None] | None = None

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the part."""
        assert isinstance(pl_module, SamplingModule)
        self._wait()  # at most one batch lies in memory beside the one that is drawn
        self._writing = self._pool.submit(_write, pl_module, outputs, batch)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait until every process has written its parts."""
        self._wait()
        trainer.strategy.barrier()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the last batch that was drawn."""
        with suppress(Exception):  # the exception is what is told
            self._wait()

    def _wait(self) -> None:
        """Wait for the part that is being written; raises what went wrong there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _write(module: SamplingModule, drawn: Trajectory, batch: Job) -> None:
    pictures = module.fields[batch["setting"]].space == "pixels"
    part = part_of(drawn, batch["seeds"], batch["labels"], pictures=pictures, exact=module.exact)
    write_part(module.plan.path(batch["setting"], batch["number"]), part)
