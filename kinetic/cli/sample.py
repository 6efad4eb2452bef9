"""The command `sample`: draw from a run, measure, shape and compare."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinetic.build import build
from kinetic.cli.options import devices_of
from kinetic.cli.quiet import quiet
from kinetic.cli.sample_options import labels_of, origin_of, parse, samplers_of, seeds_of, trusted
from kinetic.data.opening import training_size
from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD
from kinetic.flow.measures import Measure
from kinetic.flow.sampling import Sampler
from kinetic.memorization.training_set import TrainingSet, open_training_set
from kinetic.metrics.statistics import Signal
from kinetic.models.opening import Origin
from kinetic.report import write_sampling_report
from kinetic.samples.closeup import draw_one
from kinetic.samples.copying import copies_in, signals_of
from kinetic.samples.drawing import Plan
from kinetic.samples.export import Add, npz_file, png_folder, tar_shards, write_csv
from kinetic.samples.figures import POINTS, draw_energies, sample_grid
from kinetic.samples.table import SampleTable
from kinetic.studies.compare import comparison_picture, noise_controls, rows_of, table_of, write_copies, write_rows
from kinetic.studies.controls import STOPS, stopped
from kinetic.studies.experiment import Experiment, Take, collect, draw_parts, predictor
from kinetic.text import aligned, cell
from kinetic.training.loggers import is_rank_zero

SINGLE = "samples"  # the name of the only setting where nothing is compared
PRODUCTS = 10**11  # multiplications that a search for copies may take without being asked for


def sample(args: list[str]) -> None:
    """Draw samples: `[RUN] [--kts balanced] [--num N] ...`; --help lists the options."""
    quiet()
    options = parse(args)
    comparing = options.compare is not None
    samplers = samplers_of(options, SINGLE)
    trainer = predictor(accelerator=options.accelerator, devices=devices_of(options.devices))
    device = trainer.strategy.root_device
    origin = origin_of(options, device=device)
    folder = Path(options.out) if options.out else origin.home / _name(options)
    if options.format and "png" in options.formats and origin.field.space != "pixels":
        raise KineticError(f"samples of shape {origin.field.shape} are no pictures; use --format npz or shards")
    if options.index is not None:
        _close_up(options, origin, samplers[SINGLE], folder, device)
        return
    training_set = _training_set(options, origin, device)
    controlled = comparing and _has_controls(options, training_set)
    if controlled:
        samplers |= _stops(samplers["off"])
    job = Experiment(
        origin=origin,
        samplers=samplers,
        seeds=seeds_of(options),
        folder=folder,
        labels=labels_of(options),
        batch_size=options.batch_size,
        precision=options.precision,
        measures=_measures(options, origin),
        response=options.response,
        exact=comparing or training_set is not None,
        copies=0 if comparing else len(options.formats),
    )
    plan = draw_parts(job, trainer, overwrite=options.overwrite)
    if trainer.is_global_zero:
        print(f"\n{len(plan.seeds):,} samples from {origin.name}")
        work = Work(options=options, job=job, plan=plan, training_set=training_set)
        tables = _compare(work, controlled=controlled) if comparing else _single(work)
        if training_set is not None:
            write_copies(folder, tables, training_set)
        if not comparing and any(signal.auroc is not None for signal in signals_of(tables[SINGLE])):
            print(_signal_table(signals_of(tables[SINGLE])))
        write_sampling_report(folder)
        for setting in plan.settings:
            _tell_broken(setting, tables[setting])
        print(f"Look:  {os.path.relpath(folder)}/report.html")
        print(f"Next:  {_next(options, plan)}")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was drawn, and what is to be made of it."""

    options: Any
    job: Experiment
    plan: Plan
    training_set: TrainingSet | None


def _stops(off: Sampler) -> dict[str, Sampler]:
    return {f"off to t = {end:g}": stopped(off, end) for end in STOPS if off.kts.tau < end}


def _name(options: Any) -> str:
    """Name of the folder that results go to by default."""
    name = "compare" if options.compare is not None else options.kts or "off"
    return f"empirical-{name}" if options.empirical else name


def _measures(options: Any, origin: Origin) -> tuple[Measure, ...]:
    """What every run measures, what this run measures besides, and what the command line adds."""
    named = dict.fromkeys([*(m for m in origin.measures if isinstance(m, str)), *options.measure])
    configs = [*({"class_path": name} for name in named), *(m for m in origin.measures if not isinstance(m, str))]
    more = [build(config, base=Measure, packages=trusted(options)) for config in configs]
    return (*STANDARD, *more)


def _close_up(options: Any, origin: Origin, sampler: Sampler, folder: Path, device: torch.device) -> None:
    if sampler.guidance != 1 and origin.field.num_classes is None:
        raise KineticError(f"--guidance {sampler.guidance:g} needs a network with classes; leave it out")
    settings = {"sampler": sampler, "labels": labels_of(options), "precision": options.precision}
    print(draw_one(origin.field, options.index, device=device, folder=folder, **settings))


def _training_set(options: Any, origin: Origin, device: torch.device) -> TrainingSet | None:
    """The training set: for a comparison if it is at hand, else where it is small enough to look into by the way."""
    try:
        if origin.run is None:
            raise KineticError("without a run there is no training set to compare with")
        if options.compare is None and origin.field.shape is not None:
            trained = training_size(origin.run) or PRODUCTS
            if len(seeds_of(options)) * trained * math.prod(origin.field.shape) > PRODUCTS:
                return None
        return open_training_set(origin.run, device=device, packages=trusted(options))
    except (KineticError, OSError) as error:
        if options.compare is not None and is_rank_zero():
            print(f"F_mem is left out: {error}", file=sys.stderr)
        return None


def _has_controls(options: Any, training_set: TrainingSet | None) -> bool:
    """Whether the controls belong beside a comparison: as told, else where F_mem can be measured."""
    return training_set is not None if options.controls is None else bool(options.controls)


def _single(work: Work) -> dict[str, SampleTable]:
    """Write the files of one setting, and say what they show."""
    folder, field = work.job.folder, work.job.origin.field
    formats = work.options.formats
    kinds: dict[str, AbstractContextManager[Add]] = {}
    if "npz" in formats:
        kinds["npz"] = npz_file(folder / "samples.npz", count=len(work.plan.seeds))
    if "png" in formats and field.space == "pixels":
        kinds["png"] = png_folder(folder / "images")
    if "shards" in formats:
        kinds["shards"] = tar_shards(folder / "shards")
    points = field.space == "points" and work.training_set is not None
    background = work.training_set.first(POINTS) if points and work.training_set else None
    grid = sample_grid(folder / "grid.png", field.space, background)
    files = [*(_of_parts(file) for file in kinds.values()), _of_images(grid)]
    tables = collect(work.job, work.plan, training_set=work.training_set, files=files)
    table = tables[SINGLE]
    write_csv(folder / "energies.csv", tables)
    draw_energies(folder / "energies.png", table, work.job.samplers[SINGLE].kts)
    print(_energies(table))
    if work.training_set is not None:
        print(_copies(table, work.training_set))
    return tables


@contextmanager
def _of_parts(file: AbstractContextManager[Add]) -> Iterator[Take]:
    with file as add:
        yield lambda batch, images: add(batch[SINGLE])


@contextmanager
def _of_images(grid: AbstractContextManager) -> Iterator[Take]:
    with grid as add:
        yield lambda batch, images: add(images[SINGLE])


def _compare(work: Work, *, controlled: bool) -> dict[str, SampleTable]:
    """Write the files of a comparison, and print its table."""
    folder = work.job.folder
    derived = noise_controls(work.plan.settings) if controlled else {}
    files = [comparison_picture(folder / "compare.png")]
    tables = collect(work.job, work.plan, training_set=work.training_set, derived=derived, files=files)
    write_csv(folder / "energies.csv", {name: tables[name] for name in work.plan.settings})
    rows = rows_of(tables)
    write_rows(folder / "compare.csv", rows)
    print(table_of(rows))
    if work.training_set is not None:
        print(_null(work.training_set))
    return tables


def _energies(table: SampleTable) -> str:
    """Mean and spread of the energies of the finite samples, in one line."""
    words = []
    for name, title, scale, unit in (
        ("energy", "energy", 1, ""),
        ("field_energy", "of the field", 1, ""),
        ("late_fraction", "late part", 100, " %"),
    ):
        values = scale * table.finite_column(name)
        mean, spread = (float(values.mean()), float(values.std())) if values.size else (math.nan, math.nan)
        words.append(f"{title} {mean:.4g} ± {spread:.2g}{unit}")
    return ", ".join(words)


def _copies(table: SampleTable, training_set: TrainingSet) -> str:
    """F_mem and the null, a line each."""
    found = copies_in(table)
    assert found is not None  # the training set was searched
    return (
        f"F_mem {100 * found.f_mem:.1f} % (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %): "
        f"{found.copied:,} of {found.total:,} are copies from the training set\n{_null(training_set)}"
    )


def _null(training_set: TrainingSet) -> str:
    rule = f"d₁/d₂ < {training_set.threshold:.3g}"
    null = training_set.null
    if null is None:
        return f"({rule}; no held-out images to judge it by)"
    share = f"{100 * null.f_mem:.1f} % would count, at most {100 * null.high:.1f} %"
    return f"({rule}; of {null.count:,} held-out images {share})"


def _signal_table(signals: list[Signal]) -> str:
    lines = [["signal", "AUROC for copies", "rank correlation with d₁/d₂"]]
    for s in signals:
        name = f"{s.name} (small)" if s.sign < 0 else s.name
        lines.append([name, *(cell(math.nan if v is None else v, ".2f") for v in (s.auroc, s.rho))])
    return aligned(lines)


def _tell_broken(setting: str, table: SampleTable) -> None:
    seeds = table.seeds[~table.finite].tolist()
    if not seeds:
        return
    listed = ", ".join(map(str, seeds[:20])) + (", ..." if len(seeds) > 20 else "")
    name = "" if setting == SINGLE else f" under {setting}"
    print(
        f"warning: {len(seeds):,} of {len(table):,} samples{name} did not stay finite: seeds {listed}", file=sys.stderr
    )


def _next(options: Any, plan: Plan) -> str:
    source = f" --checkpoint {options.checkpoint}" if options.checkpoint else f" {options.run}" if options.run else ""
    command = f"uv run sample.py{source}{' --empirical' if options.empirical else ''}"
    if options.compare is not None:
        return f"{command} --kts balanced --num 50000 --format npz"
    if options.kts in (None, "off"):
        return f"{command} --compare off,balanced,landing"
    return f"{command} --kts {options.kts} --index {plan.seeds[0]}"
