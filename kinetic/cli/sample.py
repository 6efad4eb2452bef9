"""The command `sample`: draw from a run, measure, shape and compare."""

import argparse
import math
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from kinetic.callbacks.progress import RunProgress
from kinetic.callbacks.stopping import Interrupted
from kinetic.cli.quiet import quiet
from kinetic.cli.sample_finish import SINGLE, Work, finish, has_controls
from kinetic.cli.sample_options import labels_of, parse, presets_of, sampler_of, seeds_of
from kinetic.data import FlowDataModule
from kinetic.data.opening import open_data, training_size
from kinetic.errors import KineticError, refusing
from kinetic.models.opening import Origin, open_origin, run_of, trusted
from kinetic.samples.closeup import draw_one
from kinetic.samples.drawing import PartWriter, Plan, SamplingModule, Setting
from kinetic.samples.export import is_picture
from kinetic.samples.folder import PARTS, check_room, claim, device_name, write_record
from kinetic.studies.controls import STOPS, stopped
from kinetic.training.loggers import is_rank_zero

PRECISIONS = ("32", "bf16", "16")
BATCH = {"cpu": 64}  # samples at a time; 256 on other devices
PRODUCTS = 10**11  # multiplications that a search for copies may take without being asked for


def sample(args: list[str]) -> None:
    """Draw samples: `[RUN] [--kts balanced] [--num N] ...`; --help lists the options."""
    quiet()
    options = parse(args)
    settings = _settings(options)
    run = run_of(options)
    trainer = _trainer(options)
    device = trainer.strategy.root_device
    origin = open_origin(options, run, device=device)
    _check(options, origin)
    folder = Path(options.out) if options.out else origin.home / _name(options)
    if options.index is not None:
        sampler, labels = settings[SINGLE].sampler, labels_of(options)
        precision = options.precision
        print(
            draw_one(
                origin,
                options.index,
                labels=labels,
                sampler=sampler,
                device=device,
                precision=precision,
                folder=folder,
            )
        )
        return
    data = _data(options, run, origin)
    if options.compare is not None and has_controls(options, data):
        settings |= _controls(settings["off"])
    work = _plan(options, origin, data, settings, folder, trainer)
    _draw(work, trainer)
    if trainer.is_global_zero:
        finish(work)


def _settings(options: argparse.Namespace) -> dict[str, Setting]:
    """The settings to draw under, checked before anything is loaded."""
    if options.compare is None:
        return {SINGLE: Setting(sampler_of(options, options.kts or "off"))}
    return {name: Setting(sampler_of(options, name)) for name in presets_of(options)}


def _controls(off: Setting) -> dict[str, Setting]:
    ends = [end for end in STOPS if off.sampler.kts.tau < end]
    return {f"off to t = {end:g}": stopped(off.sampler, end) for end in ends}


def _name(options: argparse.Namespace) -> str:
    """Name of the folder that results go to by default."""
    name = "compare" if options.compare is not None else options.kts or "off"
    return f"empirical-{name}" if options.empirical else name


def _trainer(options: argparse.Namespace) -> Trainer:
    devices = int(options.devices) if options.devices.isdecimal() else options.devices
    if devices != "auto" and (not isinstance(devices, int) or devices < 1):
        raise KineticError(f"--devices must be a number of at least 1, or auto, got {options.devices!r}")
    with refusing("--accelerator, --devices"):
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


def _check(options: argparse.Namespace, origin: Origin) -> None:
    """Raise ValueError for options that do not fit what is drawn from."""
    if options.precision not in PRECISIONS:
        raise KineticError(f"unknown precision {options.precision!r}; choose from {', '.join(PRECISIONS)}")
    if options.batch_size is not None and options.batch_size < 1:
        raise KineticError(f"--batch-size must be at least 1, got {options.batch_size}")
    if options.guidance != 1 and origin.num_classes is None:
        raise KineticError(f"--guidance {options.guidance:g} needs a network with classes; leave it out")
    if options.format and "png" in options.formats and not is_picture(origin.shape):
        raise KineticError(f"samples of shape {origin.shape} are no pictures; use --format npz or shards")


def _data(options: argparse.Namespace, run: Path | None, origin: Origin) -> FlowDataModule | None:
    """The training set: for a comparison if it is at hand, else where it is small enough to look into by the way."""
    try:
        if run is None:
            raise KineticError("without a run there is no training set to compare with")
        if options.compare is None:
            trained = training_size(run) or PRODUCTS
            if len(seeds_of(options)) * trained * math.prod(origin.shape) > PRODUCTS:
                return None
        return open_data(run, trusted(options))
    except (ValueError, OSError) as error:
        if options.compare is not None and is_rank_zero():
            print(f"F_mem is left out: {error}", file=sys.stderr)
        return None


def _plan(
    options: argparse.Namespace,
    origin: Origin,
    data: FlowDataModule | None,
    settings: dict[str, Setting],
    folder: Path,
    trainer: Trainer,
) -> Work:
    """Decide which samples to draw, check that there is room for them, and only then write down what begins."""
    seeds, labels = seeds_of(options), labels_of(options)
    usual = BATCH.get(trainer.strategy.root_device.type, 256)
    batch = options.batch_size or min(usual, -(-len(seeds) // trainer.world_size))
    plan = Plan(folder / PARTS, tuple(settings), seeds, labels, origin.num_classes, batch)
    device = trainer.strategy.root_device
    work = Work(options=options, origin=origin, data=data, settings=settings, plan=plan, folder=folder, device=device)
    identity = {
        **origin.identity,
        "labels": labels if origin.num_classes is not None else None,
        "precision": options.precision,
        "samplers": {name: setting.sampler.to_dict() for name, setting in settings.items()},
    }
    # Other processes get their batches from the first.
    return _claimed(work, identity) if is_rank_zero() else work


def _claimed(work: Work, identity: dict[str, Any]) -> Work:
    """Take the folder, or go on in it with the batches that it was begun with."""
    plan, options = work.plan, work.options
    check_room(
        work.folder,
        work.origin.shape,
        samples=len(plan.seeds) * len(plan.settings),
        copies=0 if work.comparing else len(options.formats),
        steps=options.steps,
        exact=work.comparing,
    )
    begun = claim(work.folder, identity, plan.seeds, overwrite=options.overwrite)
    if begun is not None and options.batch_size is None:
        plan = replace(plan, batch_size=begun["batch"])
    more = {"formats": list(options.formats), "device": device_name(work.device)}
    write_record(work.folder, identity, plan.seeds, plan.batch_size, **more)
    return replace(work, plan=plan)


def _draw(work: Work, trainer: Trainer) -> None:
    """Draw the batches that are missing."""
    if is_rank_zero() and not work.plan.missing():
        print(f"all samples are in {os.path.relpath(work.folder)} already", file=sys.stderr)
        if trainer.world_size == 1:  # several processes go on together or not at all
            return
    module = SamplingModule(
        work.origin.net, work.settings, work.plan, shape=work.origin.shape, precision=work.options.precision
    )
    warnings.filterwarnings("ignore", "Total length of `DataLoader` across ranks is zero.*")  # where all is there
    try:
        trainer.predict(module, return_predictions=False)
    except SystemExit:  # what Lightning turns Ctrl-C into
        raise Interrupted("stopped; the same command goes on with the samples that are missing") from None
