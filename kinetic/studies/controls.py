"""What a shaped setting has to beat: unshaped samples with equal noise added, and the unshaped flow stopped early."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.guidance import Network
from kinetic.flow.integration import Trajectory, time_grid
from kinetic.flow.sampling import Sampler
from kinetic.samples.drawing import Setting
from kinetic.tensors import expand, seed_from, seeded_noise

STOPS = (0.98, 0.97)
NOISE = 0xC0  # keeps this noise apart from the noise that samples start from


def stopped(sampler: Sampler, end: float) -> Setting:
    """Draw by an unshaped `sampler`, but only to t = `end` in (τ, 1).

    The flow on [0, end] is that of `end v(x, end t)` on [0, 1], so any method will do; energies are scaled back.
    """
    tau = sampler.kts.tau
    if not tau < end < 1:
        raise KineticError(f"a flow can be stopped between tau = {tau:g} and 1, got {end:g}")
    times = time_grid(sampler.grid, sampler.steps)
    grid = (*(times[times < end - 1e-9] / end).tolist(), 1.0)
    short = replace(sampler, grid=grid, kts=replace(sampler.kts, tau=tau / end))
    return Setting(short, wrap=partial(_Slowed, end=end), finish=partial(_scaled, end=end))


class _Slowed:
    """The network of the flow on [0, end], with time stretched to [0, 1]."""

    def __init__(self, net: Network, *, end: float) -> None:
        self.net, self.end = net, end
        self.num_classes = getattr(net, "num_classes", None)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.end * self.net(x, self.end * t, labels)


def _scaled(trajectory: Trajectory, *, end: float) -> Trajectory:
    """Energies and times in those of the flow that was stopped."""
    once = {name: getattr(trajectory, name) / end for name in ("energy", "field_energy", "early", "late")}
    twice = {name: getattr(trajectory, name) / end**2 for name in ("final_power", "power")}
    unknown = torch.full_like(trajectory.drift, math.nan)
    return replace(trajectory, **once, **twice, times=trajectory.times * end, drift=unknown)


def noised(x: Tensor, distance: Tensor, seeds: Sequence[int]) -> Tensor:
    """Move samples `x` [N, ...] by `distance` [N] in directions that are uniform and a function of the seed alone."""
    noise = seeded_noise([seed_from(seed, NOISE) for seed in seeds], x.shape[1:])
    return x + noise * expand(distance / noise.flatten(1).norm(dim=1), x)
