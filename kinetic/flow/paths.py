"""Affine probability paths, and the algebra between what a network may predict on them.

A path joins noise x0 (t = 0) to data x1 (t = 1) by xt = α(t) x1 + σ(t) x0 and asks the network for the velocity
α'(t) x1 + σ'(t) x0 (Lipman et al., arXiv 2210.02747; Ma et al., SiT, arXiv 2401.08740).
All arithmetic is float32 or wider, whatever comes in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.tensors import expand

Schedule = Callable[[Tensor], Tensor]
Quantity = Literal["velocity", "x1", "x0", "score"]


@dataclass(frozen=True)
class PathSample:
    """A point of the path and what the network should answer there."""

    xt: Tensor  # [B, ...], α x1 + σ x0
    t: Tensor  # [B], the times used, float32 or wider
    target: Tensor  # [B, ...], α' x1 + σ' x0


@dataclass(frozen=True)
class Coefficients:
    """The schedules of a path at given times, shaped [B, 1, ..., 1] to multiply a batch."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def wronskian(self) -> Tensor:
        """Return σ α' - α σ', which is positive: (x1, x0) and (xt, velocity) determine each other at every t."""
        return self.sigma * self.d_alpha - self.alpha * self.d_sigma


# Every conversion is linear, answer = a xt + b value. Each entry gives (a, b), written so that a factor diverges only
# where the mathematics does: dividing by σ fails at the data end, by α at the noise end, by the Wronskian nowhere.
# The entry for (given, wanted) uses E[x0 | xt] = -σ score (Tweedie).
_CONVERSIONS: dict[tuple[str, str], Callable[[Coefficients], tuple[Tensor | float, Tensor | float]]] = {
    ("velocity", "x1"): lambda c: (-c.d_sigma / c.wronskian, c.sigma / c.wronskian),
    ("velocity", "x0"): lambda c: (c.d_alpha / c.wronskian, -c.alpha / c.wronskian),
    ("velocity", "score"): lambda c: (-c.d_alpha / (c.sigma * c.wronskian), c.alpha / (c.sigma * c.wronskian)),
    ("x1", "velocity"): lambda c: (c.d_sigma / c.sigma, c.wronskian / c.sigma),
    ("x1", "x0"): lambda c: (1 / c.sigma, -c.alpha / c.sigma),
    ("x1", "score"): lambda c: (-1 / c.sigma**2, c.alpha / c.sigma**2),
    ("x0", "velocity"): lambda c: (c.d_alpha / c.alpha, -c.wronskian / c.alpha),
    ("x0", "x1"): lambda c: (1 / c.alpha, -c.sigma / c.alpha),
    ("x0", "score"): lambda c: (0.0, -1 / c.sigma),
    ("score", "velocity"): lambda c: (c.d_alpha / c.alpha, c.sigma * c.wronskian / c.alpha),
    ("score", "x1"): lambda c: (1 / c.alpha, c.sigma**2 / c.alpha),
    ("score", "x0"): lambda c: (0.0, -c.sigma),
}


@dataclass(frozen=True)
class AffinePath:
    """A path given by its two schedules and their derivatives, each a function of t in [0, 1], any shape to the same.

    Other paths than the three below need nothing but four such functions (of module level, if the path is pickled).
    """

    name: str
    alpha: Schedule  # weight of the data
    sigma: Schedule  # weight of the noise
    d_alpha: Schedule  # dα/dt
    d_sigma: Schedule  # dσ/dt

    def coefficients(self, t: Tensor | float, x: Tensor) -> Coefficients:
        """Evaluate the schedules at `t` (a number, 0-d or [B]) in the width of `x` [B, ...], float32 at least."""
        times = expand(_times(t, x), x)
        return Coefficients(self.alpha(times), self.sigma(times), self.d_alpha(times), self.d_sigma(times))

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> PathSample:
        """Join noise `x0` and data `x1`, both [B, ...], at times `t` (a number, 0-d or [B]) in [0, 1].

        Raises ValueError where the shapes do not fit. The range of t is not looked at: that would stall a GPU.
        """
        if x0.shape != x1.shape:
            raise KineticError(f"x0 and x1 must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        dtype = torch.promote_types(_width(x0), _width(x1))
        noise, data = x0.to(dtype), x1.to(dtype)
        c = self.coefficients(t, data)
        return PathSample(
            xt=c.alpha * data + c.sigma * noise,
            t=_times(t, data),
            target=c.d_alpha * data + c.d_sigma * noise,
        )

    def convert(self, value: Tensor, xt: Tensor, t: Tensor | float, *, given: Quantity, to: Quantity) -> Tensor:
        """Turn a `value` [B, ...] that predicts `given` at (`xt`, `t`) into the equivalent prediction of `to`.

        x1 and x0 stand for the posterior means E[x1 | xt] and E[x0 | xt], velocity for the marginal velocity and score
        for ∇ log p_t(xt) [1 / unit of x]. Velocity to x1 or x0, and score to x0, hold on all of [0, 1]. The others
        divide by σ (score from anything; x0, velocity from x1) or by α (x1, velocity from x0 or score). Where that
        weight is 0 the answer is not determined, and inf or nan comes back: looking for it would stall a GPU.
        Raises ValueError for an unknown quantity or for shapes that do not fit.
        """
        for kind in (given, to):
            if kind not in get_args(Quantity):
                raise KineticError(f"unknown quantity {kind!r}: choose from {', '.join(get_args(Quantity))}")
        if value.shape != xt.shape:
            raise KineticError(f"value and xt must have one shape, got {tuple(value.shape)} and {tuple(xt.shape)}")
        dtype = torch.promote_types(_width(value), _width(xt))
        value, xt = value.to(dtype), xt.to(dtype)
        if given == to:
            return value
        of_state, of_value = _CONVERSIONS[given, to](self.coefficients(t, xt))
        if isinstance(of_state, float):  # no term in xt: let 0 · inf not arise
            return of_value * value
        return of_state * xt + of_value * value


def _width(x: Tensor) -> torch.dtype:
    """Float64 for float64, float32 for all that is narrower."""
    return torch.promote_types(x.dtype, torch.float32)


def _times(t: Tensor | float, x: Tensor) -> Tensor:
    """Bring `t` to [B] on the device of `x` [B, ...] and in its width, float32 at least."""
    times = torch.as_tensor(t, dtype=_width(x), device=x.device)
    if times.ndim and times.shape != x.shape[:1]:
        raise KineticError(f"t must be a number, 0-d or [{x.shape[0]}], one a row of x, got shape {tuple(times.shape)}")
    return times.expand(x.shape[0])


def _linear_alpha(t: Tensor) -> Tensor:
    return t


def _linear_sigma(t: Tensor) -> Tensor:
    return 1 - t


def _linear_d_sigma(t: Tensor) -> Tensor:
    return -torch.ones_like(t)


def _gvp_alpha(t: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * t)


def _gvp_sigma(t: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * (1 - t))  # cos(πt/2), but exactly 0 at t = 1 and accurate close to it


def _gvp_d_alpha(t: Tensor) -> Tensor:
    return math.pi / 2 * _gvp_sigma(t)


def _gvp_d_sigma(t: Tensor) -> Tensor:
    return -math.pi / 2 * _gvp_alpha(t)


def _vp_remaining(t: Tensor) -> Tensor:
    """Time left, 1 - t, but never less than at the last number before 1: σ' diverges at 1 itself."""
    return (1 - t).clamp(min=torch.finfo(t.dtype).eps / 2)


def _vp_log_alpha(t: Tensor, low: float, high: float) -> Tensor:
    left = _vp_remaining(t)
    return -0.25 * (high - low) * left**2 - 0.5 * low * left


def _vp_alpha(t: Tensor, low: float, high: float) -> Tensor:
    return _vp_log_alpha(t, low, high).exp()


def _vp_sigma(t: Tensor, low: float, high: float) -> Tensor:
    return (-torch.expm1(2 * _vp_log_alpha(t, low, high))).sqrt()


def _vp_d_alpha(t: Tensor, low: float, high: float) -> Tensor:
    rate = 0.5 * (low + (high - low) * _vp_remaining(t))  # d log α / dt = β/2
    return rate * _vp_alpha(t, low, high)


def _vp_d_sigma(t: Tensor, low: float, high: float) -> Tensor:
    return -_vp_alpha(t, low, high) * _vp_d_alpha(t, low, high) / _vp_sigma(t, low, high)


def vp_path(*, beta_min: float = 0.1, beta_max: float = 20.0) -> AffinePath:
    """Build the variance-preserving path of score-based diffusion, α² + σ² = 1, with β falling linearly to `beta_min`.

    log α = -(β_max - β_min)(1-t)²/4 - β_min (1-t)/2 (Song et al., arXiv 2011.13456, eq. 33, in our direction of time).
    Not exact at its ends: at t = 0 a trace of the data is left (α = 0.0066 by default). Close to t = 1, σ vanishes like
    √(β_min (1-t)) and σ' grows like its inverse, so t = 1 is read as the number just before it, in float32 1 - 2⁻²⁴,
    where σ = 8e-5 and σ' = -650. All conversions are finite on this path, on all of [0, 1].
    """
    if not 0 < beta_min <= beta_max < math.inf:
        raise KineticError(f"need 0 < beta_min <= beta_max, got beta_min={beta_min}, beta_max={beta_max}")
    terms = [partial(f, low=beta_min, high=beta_max) for f in (_vp_alpha, _vp_sigma, _vp_d_alpha, _vp_d_sigma)]
    return AffinePath("vp", *terms)


LINEAR = AffinePath("linear", _linear_alpha, _linear_sigma, torch.ones_like, _linear_d_sigma)
GVP = AffinePath("gvp", _gvp_alpha, _gvp_sigma, _gvp_d_alpha, _gvp_d_sigma)
_PATHS = {"linear": LINEAR, "gvp": GVP, "vp": vp_path()}


def path(name: str) -> AffinePath:
    """Look a path up: linear (conditional OT), gvp (α = sin πt/2, σ = cos πt/2), or vp (see `vp_path`).

    On linear and gvp, t = 0 is exactly x0 and t = 1 exactly x1. Raises ValueError for any other name.
    """
    if name not in _PATHS:
        raise KineticError(f"unknown path {name!r}: choose from {', '.join(_PATHS)}")
    return _PATHS[name]
