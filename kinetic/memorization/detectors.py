"""Signs of copying that need no training data: what the field says about a finished sample when it is asked again.

A memorising field leads everything near a copy to the same image, so that its guess of the data hardly depends on the
noise. `posterior` measures that at one time; `Response` follows the flow to its end instead, at many times the cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Field, Network, evaluating
from kinetic.flow.integration import integrate
from kinetic.flow.measures import Probe
from kinetic.flow.sampling import Sampler, velocity_of
from kinetic.tensors import generator, orthonormal, seed_from, seeded_noise, squared_norm

RENOISE = 0x5EED  # keeps the noise of `renoise` apart from the noise that samples start from
COMMON = 0xC0B1E5  # and that of `common_noise` from both
TIME, COUNT = 0.8, 8  # of `posterior`


def common_noise(shape: Sequence[int], count: int) -> Tensor:
    """The noises that every sample meets: float32 [count, *shape], each of norm √D, the first D of them orthogonal.

    Noise k is a function of k and the shape alone. Orthogonal ones spread as far as unlimited draws would: their
    unbiased variance, summed over the D dimensions, is D exactly.
    """
    size = math.prod(shape)
    blocks = []
    for first in range(0, count, size):
        drawn = [
            torch.randn(size, generator=generator(COMMON, k), dtype=torch.float64)
            for k in range(first, min(first + size, count))
        ]
        blocks.append(orthonormal(torch.stack(drawn)))
    return (torch.cat(blocks) * math.sqrt(size)).float().unflatten(1, tuple(shape))


@dataclass(frozen=True)
class Posterior:
    """What the field takes the data to be, seen from a sample that has been noised: small values are a sign of copying.

    Attributes:
        spread: Σ_d Var_k[x̂_k], unbiased over the noises, [B].
        error: mean of ‖x̂_k - x‖², [B]; (1-t)² times the loss of the sample itself on the linear path.
        bias: ‖mean x̂_k - x‖², [B].
    """

    spread: Tensor
    error: Tensor
    bias: Tensor


def posterior(
    net: Network | Field,
    x: Tensor,
    *,
    labels: Tensor | Sequence[int] | int | None = None,
    t: float = TIME,
    count: int = COUNT,
    precision: str = "32-true",
) -> Posterior:
    """Noise samples `x` [B, ...] back to time `t` with `count` common noises and let the field guess the data.

    x̂_k is the guess from x_k = α x + σ ε_k. `count` evaluations of the field, unguided. For an optimal field, spread is
    about t² ‖Cov(x1 | x_t)‖_F² / (1-t)² on the linear path: zero once the posterior sits on one image.
    """
    if count < 2:
        raise KineticError(f"count must be at least 2, got {count}")
    if not 0 < t < 1:
        raise KineticError(f"t must lie strictly between 0 and 1, got {t}")
    field = Field.of(net, shape=x.shape[1:])
    times, mean = x.new_full(x.shape[:1], t), torch.zeros_like(x)
    error = squares = squared_norm(mean)
    with evaluating(field.net):
        velocity = velocity_of(field, x, labels=labels, precision=precision)
        for k, noise in enumerate(common_noise(x.shape[1:], count).to(x), 1):
            noised = field.path.sample(noise.expand_as(x), x, times).xt
            guess = field.path.convert(velocity(noised, times), noised, times, given="velocity", to="x1").to(x)
            before = guess - mean
            mean = mean + before / k
            squares = squares + (before * (guess - mean)).flatten(1).sum(1)
            error = error + squared_norm(guess - x)
    return Posterior(squares / (count - 1), error / count, squared_norm(mean - x))


class Spread(Probe):
    """Spread of the field's guesses of the data around a sample, see `posterior`."""

    name, unit, sign = "spread", "x²", -1

    def __init__(self, *, t: float = TIME, count: int = COUNT) -> None:
        self.t, self.count = t, count

    def ask(self, field: Any, x: Tensor, seeds: Tensor, *, labels: Any, sampler: Any, precision: str) -> Tensor:
        """Return the spread of each sample [B]."""
        return posterior(field, x, labels=labels, t=self.t, count=self.count, precision=precision).spread


class Response(Probe):
    """The re-noising response of a sample, see `renoise`."""

    name, unit, sign = "response", "x", -1

    def ask(self, field: Any, x: Tensor, seeds: Tensor, *, labels: Any, sampler: Any, precision: str) -> Tensor:
        """Return the response of each sample [B]."""
        return renoise(field, x, seeds, labels=labels, sampler=sampler, precision=precision)


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
