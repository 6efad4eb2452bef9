"""The command `sample`: draw from a run, measure, shape and compare."""

import math
import sys
from pathlib import Path
from typing import Any

import torch

from kinetic.build import as_config, build
from kinetic.cli.classes import classes_line
from kinetic.cli.composed_options import settings_named
from kinetic.cli.decoding import decoder_of
from kinetic.cli.options import SHAPING, devices_of
from kinetic.cli.quiet import quiet
from kinetic.cli.sample_options import labels_of, parse, seeds_of, trusted
from kinetic.cli.sample_results import SINGLE, Work, finish
from kinetic.cli.sample_settings import Choices, cleaner_of
from kinetic.data import FlowDataModule
from kinetic.data.opening import open_data, training_size
from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD
from kinetic.flow.measures import Measure
from kinetic.flow.sampling import Sampler
from kinetic.memorization.cleaning import Clean, Cleaned, cleaned_set
from kinetic.memorization.training_set import TrainingSet, open_training_set
from kinetic.models.checkpoint import MEASURES
from kinetic.models.opening import Origin
from kinetic.samples.closeup import draw_one
from kinetic.samples.references import FOLDER as REFERENCE
from kinetic.studies.experiment import draw_parts, predictor
from kinetic.studies.keeping import draw_kept
from kinetic.studies.qualities import Judge
from kinetic.studies.setting import Experiment
from kinetic.training.loggers import is_rank_zero
from kinetic.training.times import UNTRAINED

SPREAD = "kinetic.memorization.detectors.Spread"
PRODUCTS = 10**11  # multiplications that a search for copies may take without being asked for


def sample(args: list[str]) -> None:
    """Draw samples: `[RUN] [--kts balanced] [--num N] ...`; --help lists the options."""
    quiet()
    options = parse(args)
    comparing = options.compare is not None
    trainer = predictor(accelerator=options.accelerator, devices=devices_of(options.devices))
    device = trainer.strategy.root_device
    choices = Choices(options, device)
    settings, origin = choices.settings(SINGLE), choices.origin
    folder = Path(options.out) if options.out else origin.home / _name(options)
    autoencoder = decoder_of(options, origin, device)
    decode = None if autoencoder is None else autoencoder.decode
    shown = origin.field.space == "pixels" or decode is not None or not is_rank_zero()  # the first process decodes
    if options.format and "png" in options.formats and not shown:
        raise KineticError(f"samples of shape {origin.field.shape} are no pictures; use --format npz or shards")
    _warn_of_guidance([(setting.origin or origin, setting.sampler) for setting in settings.values()])
    if options.index is not None:
        _close_up(options, origin, settings[SINGLE].sampler, folder, device, decode)
        return
    data = _data(options, origin)
    controlled = comparing and (data is not None if options.controls is None else bool(options.controls))
    if controlled:
        settings |= choices.controls(settings)
    cleaning = cleaner_of(options, origin, device) if options.cleaner is not None else None
    again = {"overwrite": options.overwrite}
    job = Experiment(
        origin=origin,
        settings=settings,
        seeds=seeds_of(options),
        folder=folder,
        labels=labels_of(options, origin.class_names),
        batch_size=options.batch_size,
        precision=options.precision,
        compile=options.compile,
        measures=_measures(options, origin),
        exact=comparing or data is not None,
        about={} if options.band is None else {"keep_energy": options.band.text},
        copies=0 if comparing else len(options.formats),
        decoded=0 if autoencoder is None else math.prod(autoencoder.image_shape(origin.field.shape or ())),
    )
    kept = None if options.band is None else draw_kept(job, trainer, options.band, num=len(job.seeds), **again)
    plan = draw_parts(job, trainer, **again) if kept is None else kept.plan
    if trainer.is_global_zero:
        training_set = _training_set(options, origin, data, device, decode)
        print(f"\n{len(plan.chosen):,} samples from {origin.name}")
        if kept is not None:
            discarded = kept.drawn - len(plan.chosen)
            print(f"chosen of {kept.drawn:,} for an energy of {kept.words}; {discarded:,} were discarded")
        if (classes := classes_line(origin.class_names, job.labels)) is not None:
            print(classes)
        cleaned = _cleaned(options, cleaning, training_set)
        found: dict[str, Any] = {"training_set": training_set, "controlled": controlled, "cleaned": cleaned}
        found["judge"] = _judge(options, origin, data, device)
        finish(Work(options=options, job=job, plan=plan, decode=decode, **found))


def _name(options: Any) -> str:
    """Name of the folder that results go to by default: it says what kinds of options were given, not their values."""
    own = any(getattr(options, option) is not None for option in SHAPING)
    names = [*settings_named(options), *(["own"] if own else [])] or ["off"]
    name = "compare" if options.compare is not None else "-".join(names)
    name += "-noise" if options.noise is not None else ""
    name += "-kept" if options.band is not None else ""
    return f"empirical-{name}" if options.empirical else name


def _measures(options: Any, origin: Origin) -> tuple[Measure, ...]:
    """What every run measures, what this run measures besides, and what the command line adds."""
    asked = [*options.measure, *([SPREAD] if options.copy_score else [])]
    named = [*origin.measures, *(name for name in asked if name not in origin.measures)]
    more = (build(as_config(one), base=Measure, home=MEASURES, trust=trusted(options)) for one in named)
    return (*STANDARD, *more)


def _warn_of_guidance(drawn: list[tuple[Origin, Sampler]]) -> None:
    """Tell that guidance leads away from a label that was never trained."""
    guided = [origin for origin, sampler in drawn if sampler.guidance != 1 and origin.field.num_classes is not None]
    if not all(origin.null_trained for origin in guided) and is_rank_zero():
        print(f"warning: {UNTRAINED}", file=sys.stderr)


def _close_up(options: Any, origin: Origin, sampler: Sampler, folder: Path, device: torch.device, decode: Any) -> None:
    if sampler.guidance != 1 and origin.field.num_classes is None:
        raise KineticError(f"--guidance {sampler.guidance:g} needs a network with classes; leave it out")
    settings = {"sampler": sampler, "labels": labels_of(options, origin.class_names), "precision": options.precision}
    print(draw_one(origin.field, options.index, device=device, folder=folder, decode=decode, **settings))


def _data(options: Any, origin: Origin) -> FlowDataModule | None:
    """The training images: for a comparison if they are at hand, else where few enough to look into by the way."""
    count = len(seeds_of(options))
    try:
        if origin.run is None:
            raise KineticError("without a run there is no training set to compare with")
        if options.compare is None and origin.field.shape is not None:
            trained = training_size(origin.run) or PRODUCTS
            if count * trained * math.prod(origin.field.shape) > PRODUCTS:
                return None
        data = open_data(origin.run, trusted(options))
        data.latents = data.latents or origin.latents  # of an imported run, which knows what its data does not say
        return data
    except (KineticError, OSError) as error:
        _leave_out(error)
        return None


def _training_set(
    options: Any, origin: Origin, data: FlowDataModule | None, device: torch.device, decode: Any
) -> TrainingSet | None:
    if data is None or origin.run is None:
        return None
    asked: dict[str, Any] = {"space": options.f_mem_space, "decode": decode, "trust": trusted(options)}
    try:
        return open_training_set(origin.run, data=data, device=device, **asked)
    except (KineticError, OSError) as error:
        if options.f_mem_space is not None:
            raise
        _leave_out(error)
        return None


def _cleaned(options: Any, cleaning: Clean | None, training_set: TrainingSet | None) -> Cleaned | None:
    """The training set after cleaning; one line where there is none."""
    if training_set is None or options.compare is None:
        return None
    if cleaning is None:
        advice = "pass --cleaner RUN, one that was trained on other images (train --seed_everything N)"
        print(f"F_mem cleaned is left out: {advice}", file=sys.stderr)
        return None
    if training_set.view.compute is not None:
        print(f"F_mem cleaned is left out: it is not measured in {training_set.view.space}", file=sys.stderr)
        return None
    return Cleaned(cleaning, cleaned_set(training_set, cleaning))


def _judge(options: Any, origin: Origin, data: FlowDataModule | None, device: torch.device) -> Judge | None:
    """What judges quality in a comparison; one line where nothing can, an error where it was asked for."""
    if options.compare is None or options.features == "none" or data is None:
        return None
    try:
        folder = None if origin.run is None else origin.run / REFERENCE
        return Judge.of(data, options.features, device=device, trust=trusted(options), folder=folder)
    except KineticError as error:
        if options.features is not None:
            raise
        print(f"quality is left out: {error}", file=sys.stderr)
        return None


def _leave_out(error: Exception) -> None:
    if is_rank_zero():
        print(f"F_mem is left out: {error}", file=sys.stderr)
