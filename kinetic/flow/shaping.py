"""Kinetic trajectory shaping (KTS): sampling with `dx/dt = η(t) v(x, t)` (Li et al., 2026, arXiv 2602.07928)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Velocity
from kinetic.flow.ramps import FORMS, Form, area, between, clamped, mean_between, ramp
from kinetic.tensors import expand

PRESETS: dict[str, tuple[float, float]] = {
    "off": (0.0, 0.0),
    "balanced": (0.01, 0.01),
    "launch": (0.02, 0.0),
    "landing": (0.0, 0.02),
}


@dataclass(frozen=True)
class KTS:
    """Gain η(t): `1 + α(t)` before τ (launch), `1 - β(t)` from τ on (soft landing).

    With u = 1 - t/τ the launch α(t) is α u (linear), α (constant) or α (e^{ku} - 1)/(e^k - 1) (exponential).
    With s = (t - τ)/(1 - τ) the landing β(t) is β s (linear), β (constant) or β (e^{ks} - 1) (exponential, which is
    not normalised: it ends at 19.09 β for k = 3). A gain below zero, which would reverse the motion, is refused.

    With `gains`, pairs (t, η) of rising times, η(t) is linear between them and constant beyond (see `calibrated`);
    alpha and beta are 0 then, and τ still parts the early from the late energy.
    """

    alpha: float = 0.0  # strength of the launch, >= 0
    beta: float = 0.0  # strength of the landing, >= 0
    tau: float = 0.6  # where launch turns into landing, and early into late energy; in (0, 1)
    k: float = 3.0  # rate of the exponential forms, in (0, 50]
    launch: Form = "linear"
    landing: Form = "exponential"
    gains: tuple[tuple[float, float], ...] | None = None  # measured instead of prescribed

    def __post_init__(self) -> None:
        if self.gains is not None:
            object.__setattr__(self, "gains", _checked_gains(self.gains, self.alpha, self.beta))
        for name in ("alpha", "beta"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise KineticError(f"KTS {name} must be a finite number of at least 0, got {getattr(self, name)}")
        if not 0 < self.tau < 1:
            raise KineticError(f"KTS tau must lie strictly between 0 and 1, got {self.tau}")
        if not 0 < self.k <= 50:
            raise KineticError(f"KTS k must lie above 0 and at most at 50, got {self.k}")
        for name in ("launch", "landing"):
            if getattr(self, name) not in FORMS:
                raise KineticError(f"unknown KTS {name} form {getattr(self, name)!r}; choose from {', '.join(FORMS)}")
        if self.beta > self.largest_beta:
            end = 1 - self.beta * ramp(1.0, self.landing, self.k)
            raise KineticError(
                f"KTS beta={self.beta:g} would reverse the motion (gain {end:.4g} at t = 1); "
                f"the largest beta allowed for the {self.landing} landing with k={self.k:g} is {self.largest_beta:.6g}"
            )

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        alpha: float | None = None,
        beta: float | None = None,
        tau: float | None = None,
        k: float | None = None,
        launch: Form | None = None,
        landing: Form | None = None,
    ) -> "KTS":
        """Build `off`, `balanced`, `launch` or `landing`, with any field overridden by one that is not None."""
        if name not in PRESETS:
            raise KineticError(f"unknown KTS preset {name!r}; choose from {', '.join(PRESETS)}")
        given = {"alpha": alpha, "beta": beta, "tau": tau, "k": k, "launch": launch, "landing": landing}
        fields: dict[str, Any] = dict(zip(("alpha", "beta"), PRESETS[name], strict=True))
        return cls(**fields | {key: value for key, value in given.items() if value is not None})

    @property
    def is_off(self) -> bool:
        """Whether the gain is 1 throughout."""
        return self.alpha == 0 and self.beta == 0 and self.gains is None

    @property
    def jumps(self) -> bool:
        """Whether the gain is discontinuous at τ."""
        return (self.launch == "constant" and self.alpha > 0) or (self.landing == "constant" and self.beta > 0)

    @property
    def largest_beta(self) -> float:
        """Largest beta for which the gain stays at or above 0, rounded down to six digits."""
        limit = 1 / ramp(1.0, self.landing, self.k)
        scale = 10.0 ** (5 - math.floor(math.log10(limit)))
        return math.floor(limit * scale) / scale

    @overload
    def gain(self, t: float) -> float: ...

    @overload
    def gain(self, t: Tensor) -> Tensor: ...

    def gain(self, t: Tensor | float) -> Tensor | float:
        """η at time `t` in [0, 1]: a number for a number, and for a tensor of any shape a tensor in its dtype.

        A number within 1e-9 of τ counts as τ, so that a grid whose times were rounded meets it; for a tensor τ is
        rounded to its dtype.
        """
        if self.is_off:
            return torch.ones_like(t) if isinstance(t, Tensor) else 1.0
        if self.gains is not None:
            return between(self.gains, t)
        if isinstance(t, Tensor):
            return torch.where(t >= self.tau, 1 - self._landing(t), 1 + self._launch(t))
        return 1 - self._landing(t) if t >= self.tau - 1e-9 else 1 + self._launch(t)

    def mean_gain(self, start: float, end: float) -> float:
        """Mean of η over the times from `start` to `end` (in either order) in closed form, ∫ η dt / dt.

        A large step so takes all of a launch or a landing that lies in it, where η at its start would miss the rest.
        """
        low, high = min(start, end), max(start, end)
        if self.is_off or low == high:
            return self.gain(start)
        if self.gains is not None:
            return mean_between(self.gains, low, high)
        launched = self._launched(min(high, self.tau)) - self._launched(min(low, self.tau))
        landed = self._landed(max(high, self.tau)) - self._landed(max(low, self.tau))
        return 1 + (launched - landed) / (high - low)

    def _launched(self, t: float) -> float:
        """∫ α dt from τ to `t` <= τ; it is at most 0."""
        return -self.alpha * self.tau * area(1 - t / self.tau, self.launch, self.k) / ramp(1.0, self.launch, self.k)

    def _landed(self, t: float) -> float:
        """∫ β dt from τ to `t` >= τ."""
        return self.beta * (1 - self.tau) * area((t - self.tau) / (1 - self.tau), self.landing, self.k)

    def _launch(self, t: Any) -> Any:
        """α(t) before τ."""
        return self.alpha * ramp(clamped(1 - t / self.tau), self.launch, self.k) / ramp(1.0, self.launch, self.k)

    def _landing(self, t: Any) -> Any:
        """β(t) from τ on."""
        return self.beta * ramp(clamped((t - self.tau) / (1 - self.tau)), self.landing, self.k)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, for a configuration or a checkpoint; `gains` only where there are any."""
        values = asdict(self)
        gains = values.pop("gains")
        return values if gains is None else {**values, "gains": [list(pair) for pair in gains]}


def calibrated(times: Sequence[float], gains: Sequence[float], *, floor: float = 0.05, tau: float | None = None) -> KTS:
    """Shape by the least-squares gain of a field on held-out images, η* at the middles of bins of t.

    Smoothed over neighbouring bins with weights 1/4, 1/2, 1/4 (at the ends 2/3, 1/3), then clipped to [`floor`, 1]:
    below 1 the field overshoots what held-out images bear out; a gain above 1 is noise, or no matter of copying.
    """
    if not 0 < floor <= 1:
        raise KineticError(f"floor must lie above 0 and at most at 1, got {floor}")
    sums, weights = (np.convolve(values, (1, 2, 1))[1:-1] for values in (gains, np.ones(len(gains))))
    knots = tuple(zip(map(float, times), (sums / weights).clip(floor, 1.0).tolist(), strict=True))
    return KTS(gains=knots) if tau is None else KTS(gains=knots, tau=tau)


def _checked_gains(gains: Any, alpha: float, beta: float) -> tuple[tuple[float, float], ...]:
    if alpha or beta:
        raise KineticError("KTS gains and alpha or beta do not go together; leave one out")
    pairs = tuple((float(t), float(gain)) for t, gain in gains)
    if not pairs or not all(a[0] < b[0] for a, b in pairwise(pairs)):
        raise KineticError("KTS gains must be pairs of rising times and gains, at least one")
    wrong = next((p for p in pairs if not (0 <= p[0] <= 1 and p[1] >= 0 and math.isfinite(p[1]))), None)
    if wrong is not None:
        raise KineticError(f"KTS gains are finite and at least 0 at times in [0, 1], got {wrong[1]} at {wrong[0]}")
    return pairs


def shaped(velocity: Velocity, kts: KTS) -> Velocity:
    """Wrap a velocity `(x, t) -> v` into `η(t) v`, of the same signature; `t` is 0-d or [B]."""
    if kts.is_off:
        return velocity

    def wrapped(x: Tensor, t: Tensor) -> Tensor:
        return expand(kts.gain(t).expand(x.shape[0]), x).to(x.dtype) * velocity(x, t)

    return wrapped
