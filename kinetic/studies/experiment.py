"""Settings × seeds -> samples -> one table: drawn on one process or several, continued where it was interrupted.

    tables = experiment(open_run(), {"off": Sampler(), "fine": Sampler(steps=400)}, seeds=range(512), out="out")

`draw_parts` draws what is missing, `collect` goes through the parts once, whatever is made from them; `experiment` does
both. Memory is bounded by a batch under every setting and the numbers of every sample.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from kinetic.callbacks.progress import RunProgress
from kinetic.callbacks.stopping import Interrupted
from kinetic.errors import KineticError, refusing
from kinetic.flow.energy import STANDARD
from kinetic.flow.measures import Measure
from kinetic.flow.sampling import Sampler
from kinetic.flow.seeds import Labels
from kinetic.memorization.cleaning import Cleaned
from kinetic.memorization.training_set import TrainingSet
from kinetic.models.opening import Origin
from kinetic.samples.copying import CopySearch, with_cleaned_copies, with_copies
from kinetic.samples.drawing import PartWriter, Plan, SamplingModule
from kinetic.samples.export import write_parquet
from kinetic.samples.folder import PARTS, check_room, claim, device_name, write_record
from kinetic.samples.parts import Part
from kinetic.samples.table import NO_LABEL, Array, SampleTable
from kinetic.studies.setting import Experiment, Setting
from kinetic.training.lightning import most_devices
from kinetic.training.loggers import is_rank_zero

TABLE = "samples.parquet"
BATCH = {"cpu": 64}  # samples at a time; 256 on other devices
PROFILES = 4096  # samples whose power profiles are kept

Batch = dict[str, Part]  # the same seeds under every setting
Take = Callable[[Batch, dict[str, Tensor]], None]  # a batch, and its samples as floats, derived settings included
# From the samples of every setting, how far each moved, and their seeds: further samples, and how far they moved.
Derive = Callable[[dict[str, Tensor], dict[str, Tensor], Sequence[int]], tuple[Tensor, Tensor]]


def experiment(
    origin: Origin,
    settings: Mapping[str, Sampler | Setting] | Sampler,
    *,
    seeds: Sequence[int],
    out: Path | str,
    labels: Labels = "balanced",
    batch_size: int | None = None,
    precision: str = "32",
    measures: Sequence[Measure] = STANDARD,
    training_set: TrainingSet | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    overwrite: bool = False,
) -> dict[str, SampleTable]:
    """Draw `seeds` from `origin` under every setting into the folder `out`, and return the table of each setting.

    A setting is a sampler, or one with a field of its own; all share seeds, labels and the shape of samples.
    What is there already is not drawn again. With a `training_set` the samples are compared with it. All rows are in
    OUT/samples.parquet, too. The rest is as in `Experiment`. On several processes all but the first return {}.
    """
    named = {"samples": settings} if isinstance(settings, Sampler) else dict(settings)
    job = Experiment(
        origin=origin,
        settings={name: Setting(sampler=s) if isinstance(s, Sampler) else s for name, s in named.items()},
        seeds=list(seeds),
        folder=Path(out),
        labels=labels,
        batch_size=batch_size,
        precision=precision,
        measures=measures,
        exact=len(named) > 1 or training_set is not None,
    )
    trainer = predictor(accelerator=accelerator, devices=devices)
    plan = draw_parts(job, trainer, overwrite=overwrite)
    return collect(job, plan, training_set=training_set) if trainer.is_global_zero else {}


def predictor(
    *, accelerator: str = "auto", devices: int | str = 1, callbacks: Sequence[Callback] | None = None
) -> Trainer:
    """Make a trainer that draws on a number of devices, or on as many as there are ("auto")."""
    most = most_devices(accelerator)
    if devices != "auto" and (not isinstance(devices, int) or not 1 <= devices <= most):
        raise KineticError(f"--devices must be 1 to {most:,} here, or auto, got {devices!r:.40}")
    with refusing("--accelerator, --devices"):
        return Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy="auto" if devices in (1, "auto") else "ddp",
            precision="32-true",  # that of the network is draw's business
            callbacks=[RunProgress(), PartWriter()] if callbacks is None else list(callbacks),
            enable_progress_bar=callbacks is None,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def draw_parts(
    job: Experiment, trainer: Trainer, *, overwrite: bool = False, before: Callable[[Plan], None] | None = None
) -> Plan:
    """Claim the folder, and draw the batches that are missing; every process calls this.

    The first process calls `before` ahead of drawing.
    """
    device = trainer.strategy.root_device
    usual = min(BATCH.get(device.type, 256), max(-(-len(job.seeds) // trainer.world_size), 1))
    batch = usual if job.batch_size is None else job.batch_size
    plan = Plan(job.folder / PARTS, tuple(job.settings), job.seeds, job.labels, job.origin.field.num_classes, batch)
    if is_rank_zero():  # other processes get their batches from the first
        plan = _claimed(job, plan, device, overwrite=overwrite)
        if not plan.missing():
            print(f"all samples are in {os.path.relpath(job.folder)} already", file=sys.stderr)
            if trainer.world_size == 1:  # several processes go on together or not at all
                return plan
        elif before is not None:
            before(plan)
    how = {"precision": job.precision, "compile": job.compile, "measures": job.measures, "exact": job.exact}
    module = SamplingModule(job.fields, job.samplers, plan, **how)  # type: ignore[arg-type]
    warnings.filterwarnings("ignore", "Total length of `DataLoader` across ranks is zero.*")  # where all is there
    try:
        trainer.predict(module, return_predictions=False)
    except SystemExit:  # what Lightning turns Ctrl-C into
        raise Interrupted("stopped; the same command goes on with the samples that are missing") from None
    return plan


def _claimed(job: Experiment, plan: Plan, device: torch.device, *, overwrite: bool) -> Plan:
    """Take the folder, or go on in it with the batches that it was begun with; written down before drawing begins."""
    check_room(
        job.folder,
        job.shape,
        pictures=job.origin.field.space == "pixels",
        samples=len(job.seeds) * len(job.settings),
        copies=job.copies,
        steps=max(sampler.steps for sampler in job.samplers.values()),
        exact=job.exact,
        decoded=job.decoded,
    )
    identity = job.identity()
    begun = claim(job.folder, identity, job.seeds, overwrite=overwrite)
    if begun is not None and job.batch_size is None:
        plan = replace(plan, batch_size=begun["batch"])
    more = {"device": device_name(device), "space": job.origin.field.space, **job.about}
    write_record(job.folder, identity, job.seeds, plan.batch_size, **more)
    return plan


def collect(
    job: Experiment,
    plan: Plan,
    *,
    training_set: TrainingSet | None = None,
    cleaned: Cleaned | None = None,
    derived: Mapping[str, Derive] | None = None,
    files: Iterable[AbstractContextManager[Take]] = (),
) -> dict[str, SampleTable]:
    """Go through the parts once: the table of each setting, and whatever `files` make of the parts.

    Where several settings are drawn, a column `moved` is the distance from the same seed's sample under the first.
    `derived` makes further settings out of the samples of a batch, or of settings derived before, without drawing.
    Samples are compared with a `training_set`, and after cleaning with that of `cleaned`.
    """
    rows: dict[str, list[SampleTable]] = {name: [] for name in (*plan.settings, *(derived or {}))}
    search = CopySearch(training_set) if training_set is not None else None
    again = CopySearch(cleaned.training_set) if cleaned is not None else None
    with ExitStack() as stack:
        takes = [stack.enter_context(file) for file in files]
        done = 0
        for batch in plan.parts():
            images = {name: part.images() for name, part in batch.items()}
            seeds = next(iter(batch.values())).table.seeds
            moved = _moved(images) if len(batch) > 1 else {}
            for name, derive in (derived or {}).items():
                images[name], moved[name] = derive(images, moved, seeds.tolist())
            for take in takes:
                take(batch, images)
            for name in rows:
                table = batch[name].table if name in batch else _bare(seeds, images[name])
                known = {"moved": moved[name].double().numpy()} if name in moved else {}
                rows[name].append((table if done < PROFILES else table.without_power()).with_columns(known))
                if search is not None:
                    search.add(name, images[name], seeds)
                if again is not None and cleaned is not None:
                    again.add(name, cleaned.clean(images[name]), seeds)
            done += len(seeds)
    tables = {name: SampleTable.join(parts, profiles=PROFILES) for name, parts in rows.items()}
    if search is not None:
        tables = {name: with_copies(table, search.rows(name)) for name, table in tables.items()}
    if again is not None:
        tables = {name: with_cleaned_copies(table, again.rows(name)) for name, table in tables.items()}
    write_parquet(job.folder / TABLE, tables)
    return tables


def _moved(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """Distance of each sample from that of the same seed under the first setting, [B]."""
    first = next(iter(images.values()))
    return {name: (x - first).flatten(1).norm(dim=1) for name, x in images.items()}


def _bare(seeds: Array, x: Tensor) -> SampleTable:
    """Rows of samples about which nothing was measured."""
    finite, unknown = x.flatten(1).isfinite().all(1).numpy(), np.full(len(seeds), NO_LABEL)
    none = np.zeros(len(seeds), np.int64)
    return SampleTable(seeds, unknown, finite, none, {}, {}, np.empty((0, len(seeds)), np.float32), np.empty(0))
