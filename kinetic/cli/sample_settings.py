"""What `sample` draws under: named settings, each with its field and its sampler, and the controls beside them."""

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kinetic.cli.composed_options import COMPOSED, HAND_OVER, between, settings_named
from kinetic.cli.options import CALIBRATED, MEASURED, TUNED, naming, shaping_of, solver_settings
from kinetic.cli.sample_options import origin_of, trusted
from kinetic.errors import KineticError
from kinetic.flow.composition import LATE, TRAINING, away_from, hand_over
from kinetic.flow.field import Field
from kinetic.flow.sampling import Sampler
from kinetic.flow.shaping import KTS
from kinetic.flow.stochastic import Diffusion
from kinetic.memorization.calibration import FLOOR, calibrated_shaping
from kinetic.memorization.cleaning import Clean, cleaner
from kinetic.memorization.earlier import BEFORE_ONSET, earlier_checkpoint
from kinetic.models.opening import Origin, open_checkpoint, open_empirical, open_run
from kinetic.store.runs import subset_hash
from kinetic.studies.controls import CHECKPOINT, checkpoint_controls, stop_controls
from kinetic.studies.setting import Setting
from kinetic.studies.tuned import differs, tuned_shaping
from kinetic.training.loggers import is_rank_zero

WEIGHTS = {LATE: 0.25, TRAINING: 0.3}
BETWEEN = {LATE: (0.0, 1.0), TRAINING: (0.1, 0.8)}
HAND_OVER_AT = 0.7


@dataclass(frozen=True)
class Choices:
    """What the options choose, opened when it is asked for, each once.

    Attributes:
        options: of the command line.
        device: where the training images of a closed-form field are kept.
    """

    options: Any
    device: torch.device

    @cached_property
    def names(self) -> list[str]:
        """The settings, see `settings_named`."""
        return settings_named(self.options)

    @cached_property
    def late(self) -> Origin:
        """What the options name to draw from."""
        return origin_of(self.options, device=self.device)

    @cached_property
    def run(self) -> Path:
        """Folder of the run that earlier checkpoints, training images and measurements belong to."""
        if self.late.run is None:
            needy = next(name for name in self.names if name in (*COMPOSED, *MEASURED))
            raise KineticError(f"{self.late.name} lies in no run, which {needy} needs; name a run")
        return self.late.run

    @cached_property
    def origin(self) -> Origin:
        """What is followed unless a setting says otherwise: composed where a single setting is drawn."""
        composed = self.options.compare is None and self.names and self.names[0] in COMPOSED
        return self.composed(self.names[0]) if composed else self.late

    def settings(self, single: str) -> dict[str, Setting]:
        """The settings to draw under: one, called `single`, or those that are compared."""
        if self.options.compare is None:
            return {single: Setting(sampler=self._sampler(self.options.kts))}
        return {name: self._compared(name) for name in self.names}

    def _compared(self, name: str) -> Setting:
        """A setting of a comparison; a composed field is followed unshaped there."""
        if name in COMPOSED:
            return Setting(sampler=self._sampler("off"), origin=self.composed(name))
        return Setting(sampler=self._sampler(name))

    def controls(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        """Controls that have to be drawn, beside the settings of a comparison."""
        off = settings["off"].sampler
        far = any(name in (*COMPOSED, *MEASURED) for name in settings)
        how = {"weights": self.options.weights, "trust": trusted(self.options)}
        found = {**stop_controls(off, far=far), **checkpoint_controls(self.late, off, **how)}
        if any(name in COMPOSED for name in settings):  # what they are composed with, by itself
            name = f"{CHECKPOINT} {self.before.identity['step']}"
            found.setdefault(name, Setting(sampler=off, origin=self.before))
        return found

    def _sampler(self, kts: str | None) -> Sampler:
        measured = self._calibrated if kts == CALIBRATED else self._tuned if kts == TUNED else None
        with naming(self.options):
            shaping = measured or shaping_of(self.options, kts)
            noise = None if self.options.noise is None else Diffusion.parse(self.options.noise)
            how = {"guidance": self.options.guidance, "average_gain": self.options.average_gain}
            return Sampler(**solver_settings(self.options), **how, kts=shaping, noise=noise)

    @cached_property
    def _calibrated(self) -> KTS:
        run, step = self.run, self.late.identity["step"]
        floor = FLOOR if self.options.floor is None else self.options.floor
        with naming(self.options):
            return calibrated_shaping(run, step, floor=floor, tau=self.options.tau)

    @cached_property
    def _tuned(self) -> KTS:
        kts, about = tuned_shaping(self.run)
        other = differs(about, self.late.identity, solver_settings(self.options))
        if other and is_rank_zero():
            print(f"warning: the shaping of {self.run.name} was tuned for {other}", file=sys.stderr)
        return kts

    @cached_property
    def before(self) -> Origin:
        """The earlier checkpoint."""
        which = self.options.hand_over or self.options.before or BEFORE_ONSET
        path = Path(which) if Path(which).is_file() else earlier_checkpoint(self.run, which)
        return open_checkpoint(path, weights=self.options.weights, trust=trusted(self.options))

    @cached_property
    def training(self) -> Origin:
        """The closed-form field of the run's training set, by class where the network has classes."""
        conditional = self.late.field.num_classes is not None
        return open_empirical(self.run, conditional=conditional, device=self.device, trust=trusted(self.options))

    def composed(self, name: str) -> Origin:
        """The origin of a composed field; its identity holds that of every part, and how they are put together."""
        if name == HAND_OVER:
            given = getattr(self.options, "from")
            at = HAND_OVER_AT if given is None else given
            field, about = hand_over(self.late.field, self.before.field, at=at), {"from": at}
            return self._origin(name, field, about, f"handed over at t = {at:g} to {self.before.name}")
        other = name.removeprefix("away-from-")
        weight = WEIGHTS[other] if self.options.weight is None else self.options.weight
        times = between(self.options) or BETWEEN[other]
        theirs = self.training if other == TRAINING else self.late
        parts = self.before.field, theirs.field
        with naming(self.options):
            field = away_from(*parts, name=other, weight=weight, between=times)
        about = {"weight": weight, "between": list(times), "other": theirs.identity}
        return self._origin(name, field, about, f"left for {self.before.name}, away from {theirs.name}")

    def _origin(self, name: str, field: Field, about: dict[str, Any], words: str) -> Origin:
        return replace(
            self.late,
            field=field,
            name=f"{self.late.name}, {words}",
            identity={**self.late.identity, "composed": {name: {**about, "before": self.before.identity}}},
            null_trained=self.late.null_trained and self.before.null_trained,
        )


def cleaner_of(options: Any, origin: Origin, device: torch.device) -> Clean:
    """The network that cleans samples and training images: of another run, or a checkpoint's."""
    named, trust = options.cleaner, trusted(options)
    is_file = Path(named).is_file()
    found = open_checkpoint(named, trust=trust) if is_file else open_run(named, root=options.root, trust=trust)
    if found.field.shape != origin.field.shape:
        raise KineticError(f"--cleaner makes samples of shape {found.field.shape}, the run {origin.field.shape}")
    if subset_hash(found.run) == subset_hash(origin.run) is not None:
        raise KineticError("--cleaner was trained on the same images; name a run of others (train --seed_everything N)")
    field = found.field if found.null_trained else replace(found.field, null_label=False)
    return cleaner(field, device=device, precision=options.precision)
