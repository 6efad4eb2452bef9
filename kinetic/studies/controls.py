"""What a setting has to beat: equal noise, the flow stopped early, the same divided by t, and earlier checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.memorization.earlier import controls_of
from kinetic.models.opening import Origin, open_checkpoint
from kinetic.studies.experiment import Derive
from kinetic.studies.setting import Setting
from kinetic.tensors import expand, seed_from, seeded_noise

STOPS = (0.98, 0.97)  # which move samples about as far as shaping does
FAR_STOPS = (0.925, 0.85)  # which undo about as many copies as following another field does
CHECKPOINT, STOPPED = "checkpoint of step", "off to t ="  # how the names of such controls begin
NOISE_AS = ", noise as"  # what follows that of the first setting where noise moves it as far
DIVIDED = ", divided by t"  # what follows that of a flow stopped early
NOISE = 0xC0  # keeps this noise apart from the noise that samples start from


def stopped(sampler: Sampler, end: float) -> Sampler:
    """Make an unshaped `sampler` stop at t = `end` in (τ, 1), at the times it visits before."""
    tau = sampler.kts.tau
    if not tau < end < 1:
        raise KineticError(f"a flow can be stopped between tau = {tau:g} and 1, got {end:g}")
    times = [t for t in sampler.times() if t < end - 1e-9]
    return replace(sampler, grid=(*times, end), end=end)


def stop_controls(off: Sampler, *, far: bool = False) -> dict[str, Setting]:
    """The unshaped flow stopped early, where that is after τ; `far` stops it much earlier, too."""
    ends = [end for end in (*STOPS, *(FAR_STOPS if far else ())) if off.kts.tau < end]
    return stops_at(off, ends)


def stops_at(off: Sampler, ends: Iterable[float]) -> dict[str, Setting]:
    """The unshaped flow stopped at each of `ends`."""
    return {f"{STOPPED} {end:g}": Setting(sampler=stopped(off, end)) for end in ends}


def checkpoint_controls(origin: Origin, off: Sampler, **how: Any) -> dict[str, Setting]:
    """At most three earlier checkpoints of the run of `origin`, of before and around its onset; `how` opens them."""
    if origin.run is None or "step" not in origin.identity:
        return {}
    return at_checkpoints(controls_of(origin.run, origin.identity["step"]), off, **how)


def at_checkpoints(kept: Mapping[int, Path], off: Sampler, **how: Any) -> dict[str, Setting]:
    """Checkpoints by step, each followed unshaped; `how` opens them."""
    return {
        f"{CHECKPOINT} {step}": Setting(sampler=off, origin=open_checkpoint(path, **how)) for step, path in kept.items()
    }


def divided_controls(settings: Mapping[str, Setting], *, first: str = "off") -> dict[str, Derive]:
    """Where a flow was stopped early at t, its samples divided by t, as the state is still shrunk by that."""
    ends = {name: setting.sampler.end for name, setting in settings.items() if setting.sampler.end < 1}
    return {f"{name}{DIVIDED}": partial(_divided, first=first, name=name, end=end) for name, end in ends.items()}


def noise_controls(settings: Sequence[str], *, first: str = "off") -> dict[str, Derive]:
    """For every other setting, the samples of `first` moved as far by noise, which is nothing but noise."""
    return {f"{first}{NOISE_AS} {n}": partial(_as_far, first=first, name=n) for n in settings if n != first}


def _divided(
    images: dict[str, Tensor], moved: dict[str, Tensor], seeds: Sequence[int], *, first: str, name: str, end: float
) -> tuple[Tensor, Tensor]:
    x = images[name] / end
    return x, (x - images[first]).flatten(1).norm(dim=1)


def _as_far(
    images: dict[str, Tensor], moved: dict[str, Tensor], seeds: Sequence[int], *, first: str, name: str
) -> tuple[Tensor, Tensor]:
    return noised(images[first], moved[name], seeds), moved[name]


def noised(x: Tensor, distance: Tensor, seeds: Sequence[int]) -> Tensor:
    """Move samples `x` [N, ...] by `distance` [N] in directions that are uniform and a function of the seed alone."""
    noise = seeded_noise([seed_from(seed, NOISE) for seed in seeds], x.shape[1:])
    return x + noise * expand(distance / noise.flatten(1).norm(dim=1), x)
