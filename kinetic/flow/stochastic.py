"""Sampling with noise: `dx = [η v + (g²/2) s] dt + g dW`, which unshaped has the marginals of the ODE for every g ≥ 0.

s = ∇ log p_t is the score that belongs to the velocity on its path: -(x - t v)/(1 - t) on the linear one (Song et al.,
arXiv 2011.13456; Ma et al., SiT, arXiv 2401.08740). It is affine in v, and the weights of guidance and of composed
fields sum to one: the score of a guided or composed velocity is the same combination of the scores of its parts.

Since any g will do, it is constant over each step: its mean square there, which is exact where g² jumps. Three
consequences are stated once, here. The step that reaches t = 1, where the score is singular, has no noise and is that
of the ODE. No step renews more than a part SHARE of the variance of the noise that is left, σ(t)², as an explicit step
would overshoot: g² <= 2 SHARE σ(t)² / dt. On the linear path a constant g meets that for 1 - t < g √(2 dt), a linear
one nowhere. Euler becomes Euler-Maruyama, of weak order 1, and heun2 the stochastic Heun method, of weak order 2 for
such additive noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.paths import LINEAR, AffinePath
from kinetic.tensors import seed_from, seeded_noise

Form = Literal["constant", "linear", "churn"]
FORMS: tuple[str, ...] = get_args(Form)
GRAMMAR = "write constant:G, linear:G or churn:G:LOW-HIGH, as churn:1:0.2-0.8"
METHODS = ("euler", "heun2")  # that noise goes with
STRONGEST = 1000.0
SHARE = 0.25
WIENER = 0xD1FF  # keeps this noise apart from the noise that samples start from
Normal = Callable[[int], Tensor]  # number of a step -> standard normal noise [B, ...]


@dataclass(frozen=True)
class Diffusion:
    """How strong the noise is over time, g(t) in units of x/√t; 0 is the ODE bit for bit.

    Attributes:
        form: constant: g; linear: g (1 - t); churn: g from `low` to `high`, and 0 outside.
        strength: g, at least 0.
        low: where churning begins, in [0, 1).
        high: where it ends, in (low, 1].
    """

    form: Form = "linear"
    strength: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise KineticError(f"unknown noise form {self.form!r:.80}; choose from {', '.join(FORMS)}")
        if not 0 <= self.strength <= STRONGEST:
            raise KineticError(f"noise strength must lie in [0, {STRONGEST:g}], got {self.strength}")
        if not 0 <= self.low < self.high <= 1:
            raise KineticError(f"noise must churn between two times that rise in [0, 1], got {self.low}-{self.high}")
        if self.form != "churn" and (self.low, self.high) != (0, 1):
            raise KineticError(f"noise of the form {self.form} takes no times; leave them out, or use churn")

    @classmethod
    def parse(cls, text: str) -> "Diffusion":
        """Read constant:G, linear:G or churn:G:LOW-HIGH."""
        form, *rest = text.split(":")
        if form not in FORMS or len(rest) != (2 if form == "churn" else 1):
            raise KineticError(f"noise {text!r:.80} cannot be read; {GRAMMAR}")
        try:
            strength = float(rest[0])
            low, high = map(float, rest[1].split("-")) if form == "churn" else (0.0, 1.0)
        except ValueError:
            raise KineticError(f"noise {text!r:.80} cannot be read; {GRAMMAR}") from None
        return cls(form, strength, low, high)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return plain types; the times of churning alone."""
        values = asdict(self)
        return values if self.form == "churn" else {name: values[name] for name in ("form", "strength")}

    def mean_square(self, t: float, t_next: float) -> float:
        """Mean of g² over the step from `t` to a later `t_next`."""
        if self.form == "linear":
            a, b = 1 - t, 1 - t_next
            return self.strength**2 * (a * a + a * b + b * b) / 3
        inside = min(t_next, self.high) - max(t, self.low)
        return self.strength**2 * max(inside, 0.0) / (t_next - t)

    def squares(self, times: Sequence[float], path: AffinePath = LINEAR) -> tuple[float, ...]:
        """The g² of each step through rising `times` on a path: see the head of this file.

        Raises KineticError where it is already the first step with noise that would overshoot.
        """
        found: list[float] = []
        for (t, t_next), left in zip(pairwise(times), _noise_left(times, path), strict=False):
            wanted = self.mean_square(t, t_next) if t_next < 1 else 0.0
            most = 2 * SHARE * left**2 / (t_next - t)
            if wanted > most and not any(found):
                largest = 0.995 * self.strength * math.sqrt(most / wanted)  # rounds down
                raise KineticError(
                    f"noise strength {self.strength:g} is too much for a step of {t_next - t:.3g} at t = {t:.3g}; "
                    f"take at most {largest:.3g}, or more steps"
                )
            found.append(min(wanted, most))
        return tuple(found)


def check_method(method: str) -> None:
    """Raise KineticError for a method that noise does not go with."""
    if method not in METHODS:
        raise KineticError(
            f"noise needs the method euler (Euler-Maruyama) or heun2 (stochastic Heun), got {method}; use one of them"
        )


def _noise_left(times: Sequence[float], path: AffinePath) -> list[float]:
    """σ of a path at times on the host."""
    found: list[float] = path.sigma(torch.tensor(times, dtype=torch.float64, device="cpu")).tolist()
    return found


@dataclass(frozen=True)
class Driven:
    """The noise that drives a batch: how strong, what is drawn for each step, and the path that the score is of."""

    diffusion: Diffusion
    normal: Normal
    path: AffinePath = LINEAR

    def along(self, times: Sequence[float], *, method: str) -> "Drive":
        """What happens in each step of a `method` through rising `times`."""
        check_method(method)
        if times[-1] < times[0]:
            raise KineticError("noise goes forwards in time; integrate without it")
        return Drive(self.diffusion.squares(times, self.path), self.normal)


@dataclass(frozen=True)
class Drive:
    """The noise on one grid: the g² of each step, and standard normal noise [B, ...] for it."""

    squares: tuple[float, ...]
    normal: Normal

    def kick(self, step: int, dt: float) -> Tensor | None:
        """g ΔW of a step, [B, ...]; None without noise."""
        return math.sqrt(self.squares[step] * dt) * self.normal(step) if self.squares[step] else None


def normals(seeds: Sequence[int] | Tensor, like: Tensor) -> Normal:
    """Standard normal noise for a batch like `like` [B, ...]: row i is a function of (seeds[i], step), from the CPU.

    Sent to a GPU from pinned memory, so that the host does not wait for the steps before.
    """
    keys = [int(seed) for seed in seeds]

    def normal(step: int) -> Tensor:
        drawn = seeded_noise([seed_from(key, step, WIENER) for key in keys], like.shape[1:])
        if like.device.type == "cuda" and torch.cuda.is_available():
            drawn = drawn.pin_memory()
        return drawn.to(like.device, like.dtype, non_blocking=True)

    return normal
