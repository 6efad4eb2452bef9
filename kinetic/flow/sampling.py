"""Draw samples from seeds: sample i is a function of the network, the sampler and seed i alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.composition import Composed, part_energies
from kinetic.flow.energy import STANDARD
from kinetic.flow.field import Field, Network, Velocity, evaluating, in_precision
from kinetic.flow.grids import time_grid
from kinetic.flow.guidance import guided
from kinetic.flow.integration import Solver, check_average, integrate
from kinetic.flow.measures import Measure, Probe
from kinetic.flow.paths import AffinePath
from kinetic.flow.shaping import KTS
from kinetic.flow.stochastic import Diffusion, Driven, check_method, normals
from kinetic.flow.trajectory import Trajectory
from kinetic.tensors import seeded_noise


@dataclass(frozen=True)
class Sampler(Solver):
    """How to go from noise to data: a solver, and what the field is made to do on the way.

    Attributes:
        guidance: scale of classifier-free guidance; 1 is none.
        kts: shaping of the motion.
        average_gain: whether each step of euler, midpoint or heun2 takes the mean of the gain over it.
        end: time in (0, 1] at which the flow is stopped.
        noise: that drives the samples on the way, for the methods euler and heun2; none is the ODE.
    """

    guidance: float = 1.0
    kts: KTS = field(default_factory=lambda: KTS.preset("off"))
    average_gain: bool = False
    end: float = 1.0
    noise: Diffusion | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.end <= 1:
            raise KineticError(f"end must lie in (0, 1], got {self.end}")
        time_grid(self.grid, self.steps, end=self.end)
        if not abs(self.guidance) < float("inf"):
            raise KineticError(f"guidance must be a finite number, got {self.guidance}")
        if self.noise is not None:
            check_method(self.method)
        check_average(self.method, self.average_gain)

    def gains(self, times: Tensor) -> Tensor | None:
        """The gains [steps] of the steps that start at `times` and end with the last at `end`; None where all are 1."""
        if self.kts.is_off:
            return None
        if not self.average_gain:
            return self.kts.gain(times)
        bounds = [*times.tolist(), self.end]
        return times.new_tensor([self.kts.mean_gain(*step) for step in pairwise(bounds)])

    def check_noise(self, path: AffinePath) -> None:
        """Raise KineticError where the noise is too strong for the steps, on the path of the field."""
        if self.noise is not None:
            self.noise.squares(self.times(end=self.end), path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types alone, for a configuration or a checkpoint; `from_dict` takes them back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        grid = self.grid if isinstance(self.grid, str) else list(self.grid)
        values |= {"grid": grid, "kts": self.kts.to_dict(), "noise": self.noise and self.noise.to_dict()}
        left_out = {"average_gain": False, "end": 1, "noise": None}
        return {name: value for name, value in values.items() if name not in left_out or value != left_out[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampler":
        """Build a sampler from `to_dict`'s values; unknown keys are refused.

        `kts` may also be the name of a preset, and `noise` a text as on the command line.
        """
        _check_names(values, cls, "sampler")
        noise = values.get("noise")
        drive = Diffusion.parse(noise) if isinstance(noise, str) else _made(Diffusion, noise, "noise")
        return cls(**{**values, "kts": shaping_named(values.get("kts")), "noise": drive})


def shaping_named(kts: Any) -> KTS:
    """Build a shaping of the name of a preset or of `KTS.to_dict`'s values; None is off, and a KTS is left as it is."""
    kts = kts or "off"
    made = KTS.preset(kts) if isinstance(kts, str) else _made(KTS, kts, "KTS")
    if not isinstance(made, KTS):
        raise KineticError(f"kts is the name of a preset, or the fields of a KTS, got {kts!r:.80}")
    return made


def _made(kind: Any, values: Any, what: str) -> Any:
    """Make an object of a dict; anything else is left as it is."""
    if not isinstance(values, dict):
        return values
    _check_names(values, kind, what)
    return kind(**values)


def _check_names(values: dict[str, Any], kind: Any, what: str) -> None:
    known = [f.name for f in fields(kind)]
    unknown = sorted(set(map(str, values)) - set(known))
    if unknown:
        raise KineticError(f"unknown {what} option {unknown[0]!r}; choose from {', '.join(known)}")


def draw(
    net: Network | Field,
    seeds: Sequence[int] | Tensor,
    *,
    shape: Sequence[int] | None = None,
    labels: Tensor | Sequence[int] | int | None = None,
    sampler: Sampler | None = None,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
    measures: Sequence[Measure] = STANDARD,
    keep_path: int = 0,
) -> Trajectory:
    """Draw one sample for each seed from `net(x, t, labels)`, or from a field, on `device`.

    Sample i starts from noise that is a function of `seeds[i]` alone, drawn on the CPU, so with a fixed method neither
    the batch nor the process it is drawn in changes it. The noise of each step, where the sampler has some, is one of
    `seeds[i]` and the step; its score is that of the velocity that is followed, before shaping, on the field's path.
    `shape`, without the batch axis, is needed where the network does not state it. `labels` is one class for all, or
    one for each seed. `precision` (32, bf16, ... or a trainer's precision) holds for the network alone: states and
    energies stay float32, or float64 for 64-true. A `Probe` among the measures asks the field about the finished
    samples. Of a composed field the energy of each part is measured as well. A module is put into evaluation mode and
    back again. No gradients.
    """
    sampler = sampler or Sampler()
    followed = Field.of(net, shape=shape)
    if followed.shape is None:
        raise KineticError("the network does not state the shape of its samples; pass shape=")
    x0 = seeded_noise(seeds, followed.shape).to(device)
    x0 = x0.double() if precision.startswith("64") else x0
    with evaluating(followed.net):
        velocity = velocity_of(followed, x0, labels=labels, guidance=sampler.guidance, precision=precision)
        drawn = integrate(
            velocity,
            x0,
            solver=sampler,
            kts=sampler.kts,
            average_gain=sampler.average_gain,
            end=sampler.end,
            driven=None if sampler.noise is None else Driven(sampler.noise, normals(seeds, x0), followed.path),
            measures=(*measures, *part_energies(followed)),
            keep_path=keep_path,
        )
        how: dict[str, Any] = {"labels": labels, "sampler": sampler, "precision": precision}
        found = {
            measure.name: measure.ask(followed, drawn.x, torch.as_tensor(seeds), **how)
            for measure in measures
            if isinstance(measure, Probe) and sampler.end == 1
        }
        return replace(drawn, columns={**drawn.columns, **found})


def velocity_of(
    followed: Field,
    x: Tensor,
    *,
    labels: Tensor | Sequence[int] | int | None = None,
    guidance: float = 1.0,
    precision: str = "32-true",
) -> Velocity:
    """Make the velocity of a field for a batch like `x` [B, ...], with its labels, guidance and precision."""
    with torch.inference_mode(mode=False):  # a measure may differentiate the velocity
        wanted = followed.check_labels(labels, x.shape[0])
        wanted = None if wanted is None else wanted.to(x.device)

    def one(field: Field) -> Velocity:
        return guided(replace(field, net=in_precision(field.net, precision, x.device)), wanted, guidance)

    return followed.net.blend(one) if isinstance(followed.net, Composed) else one(followed)
