"""What an experiment draws: named settings, each a sampler with the field that it follows, and the seeds they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD
from kinetic.flow.field import Field
from kinetic.flow.measures import Measure
from kinetic.flow.sampling import Sampler
from kinetic.flow.seeds import Labels
from kinetic.models.opening import Origin

PRECISIONS = ("32", "bf16", "16")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How samples are drawn, and from what, where that is another field than the experiment's own."""

    sampler: Sampler
    origin: Origin | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is drawn, from what, and where it goes.

    Attributes:
        origin: what is followed, but by settings that name another.
        settings: by name; distances are measured from the first.
        seeds: of the samples, rising.
        folder: for everything that is written.
        labels: one class, several that take turns, or "balanced".
        batch_size: samples at a time on each device; None chooses.
        precision: of the network: 32, bf16 or 16.
        compile: run networks under torch.compile, which changes samples by rounding.
        measures: what is measured of every sample.
        exact: keep pictures as floats, as distances need them, from another setting or from training images.
        copies: in how many formats the samples are written besides, to see whether the disk has room.
        decoded: bytes of a picture that is made of a sample for them, where samples are latents.
        about: what the record of the folder says besides, plain types.
    """

    origin: Origin
    settings: Mapping[str, Setting]
    seeds: Sequence[int]
    folder: Path
    labels: Labels = "balanced"
    batch_size: int | None = None
    precision: str = "32"
    compile: bool = False
    measures: Sequence[Measure] = STANDARD
    exact: bool = False
    copies: int = 0
    decoded: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.settings:
            raise KineticError("an experiment needs at least one setting")
        if self.precision not in PRECISIONS:
            raise KineticError(f"unknown precision {self.precision!r}; choose from {', '.join(PRECISIONS)}")
        guided = next((s.guidance for s in self.samplers.values() if s.guidance != 1), None)
        if guided is not None and self.origin.field.num_classes is None:
            raise KineticError(f"--guidance {guided:g} needs a network with classes; leave it out")
        for name, other in self.fields.items():
            self.samplers[name].check_noise(other.path)
            own, theirs = ((one.shape, one.num_classes) for one in (self.origin.field, other))
            if own != theirs:
                raise KineticError(f"{name}: its samples have shape and classes {theirs}, those of the others {own}")

    @property
    def samplers(self) -> dict[str, Sampler]:
        """The sampler of each setting."""
        return {name: setting.sampler for name, setting in self.settings.items()}

    @property
    def fields(self) -> dict[str, Field]:
        """The field of each setting."""
        return {name: (setting.origin or self.origin).field for name, setting in self.settings.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        shape = self.origin.field.shape
        if shape is None:
            raise KineticError(f"{self.origin.name} does not state the shape of its samples")
        return shape

    def identity(self) -> dict[str, Any]:
        """Plain types that decide what the samples are."""
        others = {name: setting.origin.identity for name, setting in self.settings.items() if setting.origin}
        more = [m.name for m in self.measures if m not in STANDARD]
        return {
            **self.origin.identity,
            "labels": self.labels if self.origin.field.num_classes is not None else None,
            "precision": self.precision,
            "samplers": {name: sampler.to_dict() for name, sampler in self.samplers.items()},
            **({"compiled": True} if self.compile else {}),
            **({"fields": others} if others else {}),
            **({"measures": more} if more else {}),
        }
