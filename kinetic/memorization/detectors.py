"""Signals of copying that need no training data, beside those that every trajectory brings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Field, Network, evaluating
from kinetic.flow.integration import integrate
from kinetic.flow.measures import Arrival, Measure, unknown
from kinetic.flow.sampling import Sampler, velocity_of
from kinetic.tensors import seed_from, seeded_noise

RENOISE = 0x5EED  # keeps the noise of `renoise` apart from the noise that samples start from


class Response(Measure):
    """The re-noising response, found by `renoise` after the sample is drawn."""

    name, unit, sign = "response", "x", -1

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return NaN: on the way alone it is not known."""
        return unknown(end)


def renoise(
    net: Network | Field,
    x: Tensor,
    seeds: Sequence[int] | Tensor,
    *,
    labels: Tensor | Sequence[int] | int | None = None,
    sampler: Sampler | None = None,
    t: float = 0.7,
    repeats: int = 2,
    precision: str = "32-true",
) -> Tensor:
    """Distance from samples `x` [B, ...] to where they end after going back to time `t` with fresh noise -> [B].

    The mean Euclidean distance of `repeats`; small means that the network leads everything nearby to `x`, as it does
    with images it has memorised, so it needs no training data. Follows the sampler's method and guidance, unshaped,
    with equal steps of its mean size, at `repeats (1 - t)` of the cost of a sample. Noise depends on the seed alone.
    """
    if repeats < 1:
        raise KineticError(f"repeats must be at least 1, got {repeats}")
    if not 0 < t < 1:
        raise KineticError(f"t must lie strictly between 0 and 1, got {t}")
    sampler, field = sampler or Sampler(), Field.of(net, shape=x.shape[1:])
    steps, total = max(1, round(sampler.steps * (1 - t))), x.new_zeros(x.shape[0])
    with evaluating(field.net):
        velocity = velocity_of(field, x, labels=labels, guidance=sampler.guidance, precision=precision)
        for repeat in range(repeats):
            keys = [seed_from(int(seed), repeat, RENOISE) for seed in seeds]
            start = torch.lerp(seeded_noise(keys, x.shape[1:]).to(x), x, t)
            end = integrate(velocity, start, solver=sampler, grid="uniform", steps=steps, start=t, measures=())
            total += (end.x - x).flatten(1).norm(dim=1)
    return total / repeats
