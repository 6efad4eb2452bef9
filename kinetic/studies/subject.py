"""What every study starts from: something to follow, its data, which samples, and where results go."""

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from kinetic.data import FlowDataModule
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD
from kinetic.flow.field import Field, evaluating
from kinetic.flow.measures import Measure
from kinetic.flow.sampling import Sampler, velocity_of
from kinetic.flow.seeds import Labels, seed_text
from kinetic.flow.solvers import FIXED
from kinetic.memorization.cleaning import Cleaned
from kinetic.memorization.training_set import TrainingSet, open_training_set
from kinetic.models.opening import Origin
from kinetic.samples.drawing import Plan
from kinetic.samples.references import FOLDER
from kinetic.samples.table import SampleTable
from kinetic.studies.experiment import Derive, Take, collect, draw_parts
from kinetic.studies.qualities import Judge
from kinetic.studies.setting import Experiment, Setting
from kinetic.text import duration
from kinetic.trust import STRANGER, Trust

SAMPLES = "samples"  # folder of what was drawn, and name of the only setting
KEPT = ".kept"  # folder of what was computed besides, for the same command again
ADAPTIVE_STEPS = 60  # evaluations that an adaptive method is taken to need


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is studied, and how.

    Attributes:
        origin: what is followed.
        trainer: that draws, on one process or several.
        sampler: unless a study says otherwise.
        seeds: of the samples, the same under every setting.
        folder: for everything that is written.
        labels: of the samples.
        batch_size: samples at a time on each device; None chooses.
        precision: of the network.
        overwrite: replace other samples that lie in the folder.
        trust: what the run's configuration may name.
    """

    origin: Origin
    trainer: Trainer
    sampler: Sampler
    seeds: Sequence[int]
    folder: Path
    labels: Labels = "balanced"
    batch_size: int | None = None
    precision: str = "32"
    overwrite: bool = False
    trust: Trust = STRANGER

    @property
    def first(self) -> bool:
        """Whether this is the first process, the only one that collects and writes."""
        return self.trainer.is_global_zero

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.trainer.strategy.root_device

    @cached_property
    def run(self) -> Path:
        """Folder of the run; KineticError without one."""
        if self.origin.run is None:
            raise KineticError(f"{self.origin.name} lies in no run, so there are no images to study it with; name one")
        return self.origin.run

    @cached_property
    def data(self) -> FlowDataModule:
        """The images of the run; KineticError where they are not at hand."""
        data = open_data(self.run, self.trust)
        data.latents = data.latents or self.origin.latents
        shape = self.origin.field.shape
        if shape != tuple(data.shape):
            raise KineticError(f"the data has shape {tuple(data.shape)}, but {self.origin.name} makes {shape}")
        return data

    @cached_property
    def training_set(self) -> TrainingSet:
        """The training images, as samples are compared with them."""
        return open_training_set(self.run, data=self.data, device=self.device, trust=self.trust)

    def judge(self, features: str | None = None) -> Judge:
        """What judges quality in `features`, see `Judge.of`; what real images are in them is kept in the run."""
        return Judge.of(self.data, features, device=self.device, trust=self.trust, folder=self.run / FOLDER)

    def protocol(self, **more: Any) -> dict[str, Any]:
        """All that the figures depend on as far as the subject knows it, and `more`; plain types."""
        classes = self.origin.field.num_classes is not None
        return {
            "of": self.origin.name,
            **{name: value for name, value in self.origin.identity.items() if name != "checkpoint"},
            "samples": len(self.seeds),
            "seeds": seed_text(self.seeds),
            **({"labels": self.labels} if classes else {}),
            "sampler": self.sampler.to_dict(),
            "precision": self.precision,
            **more,
        }

    def draw(
        self,
        settings: Mapping[str, Setting | Sampler] | None = None,
        *,
        into: str = SAMPLES,
        seeds: Sequence[int] | None = None,
        measures: Sequence[Measure] = STANDARD,
    ) -> "Drawing":
        """Draw what is missing under every setting, by default that of the subject, into a folder of its own.

        Every process calls this. How long it takes is said first.
        """
        named = {SAMPLES: self.sampler} if settings is None else settings
        job = Experiment(
            origin=self.origin,
            settings={name: Setting(sampler=s) if isinstance(s, Sampler) else s for name, s in named.items()},
            seeds=list(self.seeds if seeds is None else seeds),
            folder=self.folder / into,
            labels=self.labels,
            batch_size=self.batch_size,
            precision=self.precision,
            measures=measures,
            exact=True,
        )
        plan = draw_parts(job, self.trainer, overwrite=self.overwrite, before=lambda plan: self._announce(job, plan))
        return Drawing(job, plan)

    def seconds(self, field: Field, evaluations: int) -> float:
        """About how long so many evaluations of a field for one sample take here, by trying one."""
        size = min(self.batch_size or 64, len(self.seeds))
        return evaluations / size * seconds_a_batch(field, size, self.precision, self.device)

    def _announce(self, job: Experiment, plan: Plan) -> None:
        """Say how much there is to draw, and about how long that takes."""
        work = evaluations(job, plan)
        if not work:
            return
        each = seconds_an_evaluation(job, plan.batch_size, device=self.device)
        beside = 1 + sum(measure.work(math.prod(job.shape)) for measure in job.measures)
        took = each * work * beside / plan.batch_size / self.trainer.world_size
        of = f" under {len(plan.settings)} settings" if len(plan.settings) > 1 else ""
        drawing = f"drawing {len(plan.seeds):,} samples{of}, {work:,} evaluations of the network"
        print(f"{drawing}: about {duration(took)}", file=sys.stderr)


@dataclass(frozen=True)
class Drawing:
    """What was drawn, to be gone through once."""

    job: Experiment
    plan: Plan

    def collect(
        self,
        *,
        training_set: TrainingSet | None = None,
        cleaned: Cleaned | None = None,
        derived: Mapping[str, Derive] | None = None,
        files: Iterable[AbstractContextManager[Take]] = (),
    ) -> dict[str, SampleTable]:
        """The table of each setting, see `experiment.collect`; the first process alone calls this."""
        how: dict[str, Any] = {"training_set": training_set, "cleaned": cleaned, "derived": derived, "files": files}
        return collect(self.job, self.plan, **how)


def evaluations(job: Experiment, plan: Plan) -> int:
    """Evaluations of the network for the samples that are missing."""
    cost = {name: evaluations_a_sample(sampler) for name, sampler in job.samplers.items()}
    return sum(cost[part["setting"]] * len(part["seeds"]) for part in plan.missing())


def evaluations_a_sample(sampler: Sampler) -> int:
    """Evaluations of the network for one sample; of an adaptive method a guess, and guidance counts twice."""
    steps = sampler.steps * FIXED[sampler.method] if sampler.method in FIXED else ADAPTIVE_STEPS
    return steps * (1 if sampler.guidance == 1 else 2)


def seconds_an_evaluation(job: Experiment, batch: int, *, device: torch.device) -> float:
    """How long the network takes for a batch, by trying it; the slowest field of the job."""
    size = min(batch, len(job.seeds))
    return batch / size * max(seconds_a_batch(field, size, job.precision, device) for field in set(job.fields.values()))


def seconds_a_batch(field: Field, size: int, precision: str = "32", device: torch.device | str = "cpu") -> float:
    """How long an evaluation of a field takes for so many samples, by trying it three times."""
    x = torch.randn(size, *(field.shape or ()), device=device)
    labels = None if field.num_classes is None else torch.zeros(size, dtype=torch.int64)
    if isinstance(field.net, torch.nn.Module):
        field.net.to(device)
    with torch.no_grad(), evaluating(field.net):
        velocity = velocity_of(field, x, labels=labels, precision=precision)
        least = math.inf
        for _ in range(3):
            begun = time.perf_counter()
            float(velocity(x, torch.full((size,), 0.5, device=device)).sum())  # waits for the device
            least = min(least, time.perf_counter() - begun)
    return least
