"""The command `sample`: draw from a run, measure, shape and compare."""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from kinetic.callbacks.progress import RunProgress
from kinetic.callbacks.stopping import Interrupted
from kinetic.cli.noise import quiet
from kinetic.cli.sample_compare import compare, table
from kinetic.cli.sample_controls import STOPS, stopped
from kinetic.cli.sample_files import broken, summary, write_files
from kinetic.cli.sample_folder import PARTS, check_room, claim, write_record
from kinetic.cli.sample_one import draw_one
from kinetic.cli.sample_options import labels_of, parse, presets_of, sampler_of, seeds_of
from kinetic.cli.sample_source import Origin, open_data, open_origin, run_of, trusted
from kinetic.data import FlowDataModule
from kinetic.loggers import is_rank_zero
from kinetic.outputs import is_picture
from kinetic.predict import PartWriter, Plan, SamplingModule, Setting
from kinetic.report import write_sampling_report

PRECISIONS = ("32", "bf16", "16")
BATCH = 256
SINGLE = "samples"  # the name of the only setting where nothing is compared


@dataclass(frozen=True)
class Work:
    """All that is known before the first sample is drawn."""

    options: argparse.Namespace
    run: Path | None
    origin: Origin
    settings: dict[str, Setting]
    plan: Plan
    folder: Path


def sample(args: list[str]) -> None:
    """Draw samples: `[RUN] [--kts balanced] [--num N] ...`; --help lists the options."""
    quiet()
    options = parse(args)
    settings = _settings(options)
    if options.precision not in PRECISIONS:
        raise ValueError(f"unknown precision {options.precision!r}; choose from {', '.join(PRECISIONS)}")
    run = run_of(options)
    trainer = _trainer(options)
    origin = open_origin(options, run, device=trainer.strategy.root_device)
    folder = Path(options.out) if options.out else origin.home / _name(options)
    if options.index is not None:
        print(_one(options, origin, settings[SINGLE], trainer.strategy.root_device, folder))
        return
    work = _prepare(options, run, origin, settings, trainer, folder)
    _draw(work, trainer)
    if trainer.is_global_zero:
        _finish(work)


def _settings(options: argparse.Namespace) -> dict[str, Setting]:
    """The settings to draw under, checked before anything is loaded."""
    if options.compare is None:
        return {SINGLE: Setting(sampler_of(options, options.kts or "off"))}
    settings = {name: Setting(sampler_of(options, name)) for name in presets_of(options)}
    if options.controls:
        off = settings["off"].sampler
        settings |= {f"off to t = {end:g}": stopped(off, end) for end in STOPS if off.kts.tau < end}
    return settings


def _name(options: argparse.Namespace) -> str:
    """Name of the folder that results go to by default."""
    if options.compare is not None:
        return "compare-empirical" if options.empirical else "compare"
    name = options.kts or "off"
    return f"empirical-{name}" if options.empirical else name


def _trainer(options: argparse.Namespace) -> Trainer:
    devices = int(options.devices) if options.devices.isdecimal() else options.devices
    return Trainer(
        accelerator=options.accelerator,
        devices=devices,
        strategy="auto" if devices in (1, "auto") else "ddp",
        precision="32-true",  # that of the network is draw's business
        callbacks=[RunProgress(), PartWriter(exact=options.compare is not None)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _one(options: argparse.Namespace, origin: Origin, setting: Setting, device: torch.device, folder: Path) -> str:
    return draw_one(
        origin,
        options.index,
        labels=labels_of(options),
        sampler=setting.sampler,
        device=device,
        precision=options.precision,
        folder=folder,
    )


def _prepare(
    options: argparse.Namespace,
    run: Path | None,
    origin: Origin,
    settings: dict[str, Setting],
    trainer: Trainer,
    folder: Path,
) -> Work:
    """Check everything, and only then write down what is going to be drawn."""
    seeds, labels = seeds_of(options), labels_of(options)
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
    _check_guidance(options, origin)
    if options.format and "png" in options.formats and not is_picture(origin.shape):
        raise ValueError(f"samples of shape {origin.shape} are no pictures; use --format npz or shards")
    identity = {
        **origin.identity,
        "labels": labels if origin.num_classes is not None else None,
        "precision": options.precision,
        "samplers": {name: setting.sampler.to_dict() for name, setting in settings.items()},
    }
    batch = options.batch_size or min(BATCH, -(-len(seeds) // trainer.world_size))
    plan = Plan(folder / PARTS, tuple(settings), seeds, labels, origin.num_classes, batch)
    if is_rank_zero():  # the others get their batches from the first
        plan = _claim(options, origin, identity, plan)
    return Work(options, run, origin, settings, plan, folder)


def _check_guidance(options: argparse.Namespace, origin: Origin) -> None:
    if options.guidance != 1 and origin.num_classes is None:
        raise ValueError(f"--guidance {options.guidance:g} needs a network with classes; leave it out")


def _claim(options: argparse.Namespace, origin: Origin, identity: dict[str, Any], plan: Plan) -> Plan:
    """Take the folder, or go on in it with the batches that it was begun with; return the plan that holds."""
    folder = plan.folder.parent
    comparing = options.compare is not None
    copies = 0 if comparing else len(options.formats)
    room = len(plan.seeds) * len(plan.settings)
    check_room(folder, origin.shape, samples=room, copies=copies, steps=options.steps, exact=comparing)
    begun = claim(folder, identity, plan.seeds, overwrite=options.overwrite)
    if begun is not None and options.batch_size is None:
        plan = replace(plan, batch_size=begun["batch"])
    write_record(folder, identity, plan.seeds, plan.batch_size, formats=list(options.formats))
    return plan


def _draw(work: Work, trainer: Trainer) -> None:
    """Draw the batches that are missing."""
    missing = len(work.plan.missing()) if is_rank_zero() else 1
    if missing == 0:
        print(f"all samples are in {_shown(work.folder)} already; nothing to draw", file=sys.stderr)
        return
    module = SamplingModule(
        work.origin.net, work.settings, work.plan, shape=work.origin.shape, precision=work.options.precision
    )
    try:
        trainer.predict(module, return_predictions=False)
    except SystemExit:  # what Lightning turns Ctrl-C into
        raise Interrupted("stopped; the same command goes on with the samples that are missing") from None


def _finish(work: Work) -> None:
    """Write the files and say what there is."""
    print(f"\nDrew {len(work.plan.seeds):,} samples from {work.origin.name}")
    if work.options.compare is not None:
        _finish_comparison(work)
    else:
        sampler = work.settings[SINGLE].sampler
        data = _data(work) if work.origin.shape == (2,) else None
        write_files(
            work.folder,
            work.plan,
            SINGLE,
            formats=work.options.formats,
            kts=sampler.kts,
            shape=work.origin.shape,
            data=data,
        )
        print(summary(work.plan, SINGLE))
    write_sampling_report(work.folder)
    for setting in work.plan.settings:
        _tell_broken(work, setting)
    print(f"Look:  {_shown(work.folder)}/report.html")
    print(f"Next:  {_next(work)}")


def _finish_comparison(work: Work) -> None:
    data = _data(work)
    rows = compare(work.folder, work.plan, data, controls=work.options.controls and data is not None)
    print(table(rows))


def _data(work: Work) -> FlowDataModule | None:
    """The training set, if it is at hand."""
    if work.run is None:
        print("without a run there is no training set to compare with", file=sys.stderr)
        return None
    try:
        return open_data(work.run, trusted(work.options))
    except (ValueError, OSError) as error:
        print(f"the training set is not at hand: {error}", file=sys.stderr)
        return None


def _tell_broken(work: Work, setting: str) -> None:
    seeds = broken(work.plan, setting)
    if seeds:
        listed = ", ".join(map(str, seeds[:20])) + (", ..." if len(seeds) > 20 else "")
        name = "" if setting == SINGLE else f" under {setting}"
        print(
            f"warning: {len(seeds)} of {len(work.plan.seeds)} samples{name} are not finite: seeds {listed}",
            file=sys.stderr,
        )


def _next(work: Work) -> str:
    run = "" if work.run is None or work.options.run is None else f" {work.options.run}"
    if work.options.compare is not None:
        return f"uv run sample.py{run} --kts balanced --num 50000 --format npz"
    if work.options.kts in (None, "off"):
        return f"uv run sample.py{run} --compare off,balanced,landing"
    return f"uv run sample.py{run} --kts {work.options.kts} --index {work.plan.seeds[0]}"


def _shown(folder: Path) -> str:
    return os.path.relpath(folder)
