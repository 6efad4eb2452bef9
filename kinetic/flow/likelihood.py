"""Likelihood under a model's own flow: log p(x(1)) = log N(x(0); 0, I) - ∫ div(η v) dt.

The divergence is one more rate, integrated by the solver beside the energies and with its order: Euler 1, midpoint and
Heun 2, RK4 4 (Chen et al. 2018, arXiv 1806.07366; Grathwohl et al. 2019, arXiv 1810.01367). It takes one more pass
through the network with gradients and one backwards for each probe, none of which changes the samples or counts as a
network evaluation (nfe). Under guidance or shaping the density is that of the flow so changed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD
from kinetic.flow.field import Field, Network, evaluating
from kinetic.flow.integration import integrate
from kinetic.flow.measures import Arrival, Evaluation, Measure, Rate, Sign, unknown
from kinetic.flow.sampling import Sampler, velocity_of
from kinetic.flow.trajectory import Trajectory
from kinetic.tensors import generator, orthonormal, squared_norm

EXACT = 16  # dimensions up to which the divergence is exact unless a number of probes is asked for
PROBES = 8  # in more dimensions
LEVEL = 1 / 127.5  # width of one of 256 levels of pixels in [-1, 1]
KEY, DITHER = 0xD1F, 0xD17


@lru_cache(maxsize=16)
def probes_of(count: int, size: int, seed: int = 0) -> Tensor:
    """Directions in `size` dimensions along which a divergence is probed, float64 [min(count, size), size].

    Σ zᵀ J z over them has the expectation tr J: they are orthogonal, of length √(size / count), each in a uniformly
    random direction, a function of (seed, count, size), and common to all samples, so that neither batch nor process
    plays a part and errors largely cancel between samples. `size` of them or more are the axes, and exact.
    """
    with torch.inference_mode(mode=False):
        if count >= size:
            return torch.eye(size, dtype=torch.float64)
        random = torch.randn(count, size, generator=generator(KEY, seed), dtype=torch.float64)
        return orthonormal(random) * math.sqrt(size / count)


@dataclass(frozen=True)
class Divergence(Rate):
    """∫ div(η v) dt along the path, in nats: how much the flow has expanded volumes on the way.

    `probes` along which it is estimated by Hutchinson's method, see `probes_of`; None is exact up to 16 dimensions, and
    8 probes beyond; as many as dimensions, or more, are exact.
    """

    probes: int | None = None
    seed: int = 0
    name, unit = "divergence", "nats"
    sign = cast("Sign", None)

    def __post_init__(self) -> None:
        if self.probes is not None and (isinstance(self.probes, bool) or self.probes < 1):
            raise KineticError(f"probes must be at least 1, got {self.probes}")

    def count(self, size: int) -> int:
        """The number of probes in `size` dimensions."""
        wanted = (size if size <= EXACT else PROBES) if self.probes is None else self.probes
        return min(wanted, size)

    def work(self, size: int) -> float:
        """Count a pass backwards for each probe, and an evaluation that can be differentiated."""
        return self.count(size) + 1.0

    def rate(self, now: Evaluation) -> Tensor:
        """Return η div v, or its estimate; KineticError for a field that cannot be differentiated."""
        if now.pull is not None:
            raise KineticError("there is no likelihood by a flow with noise on the way; leave the noise out")
        if now.field is None:
            raise KineticError("the divergence needs the field, and this solver does not hand it on")
        size = now.x.shape[1:].numel()
        found = divergence(now.field, now.x, probes_of(self.count(size), size, self.seed))
        return found if now.gain == 1 else now.gain * found


def divergence(field: Any, x: Tensor, probes: Tensor) -> Tensor:
    """Σ zᵀ (∂field/∂x) z over `probes` z [K, D], at each of `x` [B, ...] -> [B], whatever the mode outside."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        v = field(x)
        if not v.requires_grad:
            raise KineticError("the field cannot be differentiated in x, so there is no likelihood by it")
        directions = probes.to(device=x.device, dtype=x.dtype, non_blocking=True)
        total = x.new_zeros(len(x))
        for number, z in enumerate(directions, 1):
            along = z.view(1, *x.shape[1:]).expand_as(x)
            more = number < len(directions)
            (slope,) = torch.autograd.grad(v, x, along.to(v.dtype), retain_graph=more)
            total = total + (slope * along).flatten(1).sum(1)
    return total


class LogLikelihood(Divergence):
    """log p of the finished sample, in nats, on the way from noise to it or back; NaN where noise was not met.

    A density in the space of the samples: it may be positive. Where the flow was stopped at t < 1, that of its law
    there.
    """

    name, unit = "log_likelihood", "nats"
    sign = 0

    def step(self, state: Any, now: Evaluation, dt: float) -> Any:
        """Take the density of the noise at the first step."""
        if state is not None:
            return state
        return normal_log_density(now.x) if now.t == 0 else unknown(Arrival(now.t, now.x, {}, {}))

    def result(self, state: Any, end: Arrival) -> Tensor:
        """Return log N(x(0)) - ∫ div(η v) dt."""
        prior = normal_log_density(end.x) if end.t == 0 else state
        return unknown(end) if prior is None else prior - end.integrals[self.name]


def normal_log_density(x: Tensor) -> Tensor:
    """Log N(x; 0, I) of each row [B, ...] -> [B], in nats."""
    return -0.5 * squared_norm(x) - 0.5 * x.shape[1:].numel() * math.log(2 * math.pi)


def log_likelihood(
    net: Network | Field,
    x: Tensor,
    *,
    labels: Tensor | Sequence[int] | int | None = None,
    sampler: Sampler | None = None,
    precision: str = "32-true",
    probes: int | None = None,
    seed: int = 0,
    measures: Sequence[Measure] = STANDARD,
) -> Trajectory:
    """Follow given data `x` [B, ...] back to its noise, and say its log-likelihood by the way.

    The column `log_likelihood` of what is returned is log p(x) in nats [B], beside those of `measures`, which are
    counted forwards in time; its `x` is the noise. Solver, shaping and guidance are those of `sampler`; `labels` are as
    in `draw`, `probes` and `seed` as in `Divergence`.
    """
    sampler = sampler or Sampler()
    if sampler.noise is not None:
        raise KineticError("there is no likelihood by a flow with noise on the way; leave the noise out")
    followed = Field.of(net, shape=x.shape[1:])
    x = x.double() if precision.startswith("64") else x
    with evaluating(followed.net):
        velocity = velocity_of(followed, x, labels=labels, guidance=sampler.guidance, precision=precision)
        return integrate(
            velocity,
            x,
            solver=sampler,
            kts=sampler.kts,
            average_gain=sampler.average_gain,
            start=sampler.end,
            end=0.0,
            measures=(*measures, LogLikelihood(probes, seed)),
        )


def dequantised(x: Tensor, numbers: Sequence[int] | Tensor, *, width: float = LEVEL) -> Tensor:
    """Add uniform noise of one level's `width` to pictures `x` [B, ...], a function of each one's number.

    The density of what results bounds the probability of the levels (Theis et al. 2016, arXiv 1511.01844).
    """
    rows = [torch.rand(x.shape[1:], generator=generator(DITHER, int(number))) for number in numbers]
    return x + width * (torch.stack(rows).to(x) - 0.5)


def bits_per_dim(log_p: Tensor, size: int, *, width: float = LEVEL) -> Tensor:
    """Bits per dimension [B] of `log_p` [B], in nats, of a density in `size` dimensions where levels are `width` apart.

    -log₂ p / D + log₂(1 / width): for pixels in [-1, 1] of 256 levels log₂ 127.5 is added (the convention of Lipman et
    al. 2023, arXiv 2210.02747).
    """
    return -log_p / (size * math.log(2)) - math.log2(width)
