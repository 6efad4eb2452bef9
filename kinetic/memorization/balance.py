"""The energy balance: what real images say that the velocity should spend, against what generated samples spend.

Let u = α' x1 + σ' x0 be the conditional velocity of an affine path, A(t) = ½ E‖u‖² and L(t) = E‖u - v(xt, t)‖². The
optimal field v* = E[u | xt] obeys ½ E‖v*‖² = A - ½ L*, and the power of its samples, P(t) = ½ E‖v*(x(t), t)‖², is just
that, since its ODE has the marginals of the path. For any field, the *balance* of a set of real images,

    B(t) = A(t) - ½ L(t) = E⟨u, v⟩ - ½ E‖v‖² = P*(t) - ½ E‖v* - v‖²,

is at most P*(t). The *excess* P - B of held-out images is power that they do not bear out. All of this is ours.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Field, Velocity, evaluating
from kinetic.flow.paths import AffinePath
from kinetic.flow.sampling import Sampler, velocity_of
from kinetic.tensors import generator, seeded_noise, squared_norm

Array = NDArray[Any]

BINS = 10  # of the times in [0, 1]
DEGREE = 6  # of the polynomial in t that the values of images are compared with
Z = 1.959964  # of a 95 % interval
NOISE = 2**40  # seed of the first image's noise, far from those of samples
COLUMNS = ("index", "label", "t", "conditional", "error", "power", "product", "noise", "cross")


def stratified_times(count: int) -> Tensor:
    """Times for `count` images, float32: (k + ½)/count in a fixed order that has nothing to do with the images'."""
    order = torch.randperm(count, generator=generator(count, 0))
    return ((order.double() + 0.5) / max(count, 1)).float()


def balance_terms(
    velocity: Velocity,
    x0: Tensor,
    x1: Tensor,
    t: Tensor,
    *,
    path: AffinePath,
    index: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """Evaluate the field once at each image: float64 [B, 9] on the CPU, one row an image, its columns COLUMNS.

    Args:
        velocity: called as velocity(xt, t) -> [B, ...].
        x0: noise [B, ...], paired with the images as in training.
        x1: images [B, ...].
        t: times [B] in [0, 1).
        path: that the field was trained on.
        index: number of each image [B].
        labels: class of each image [B], for the balance of each class; none is -1.
    """
    sample = path.sample(x0, x1, t)
    v = velocity(sample.xt, t).to(sample.target.dtype)
    u = sample.target
    columns = [
        index.to(u.device),
        torch.full_like(index, -1).to(u.device) if labels is None else labels.to(u.device),
        sample.t,
        squared_norm(u) / 2,
        squared_norm(u - v) / 2,
        squared_norm(v) / 2,
        (u * v).flatten(1).sum(1),
        squared_norm(x0) - x0[0].numel(),
        (x0 * x1).flatten(1).sum(1),
    ]
    return torch.stack([column.double() for column in columns], 1).cpu()


@dataclass(frozen=True)
class Images:
    """What a set of real images says about a field: rows as `balance_terms` makes them, sorted by index.

    `independent` says that noise and images were paired at random, so that the mean of ⟨x0, x1⟩ is known.
    """

    rows: Array
    independent: bool = True

    @classmethod
    def of(cls, parts: "list[Tensor]", *, independent: bool = True) -> "Images":
        """Put the rows of all processes together, each image once."""
        rows = torch.cat(parts).numpy()
        _, first = np.unique(rows[:, 0], return_index=True)
        rows = rows[first]
        return cls(rows[np.isfinite(rows).all(1)], independent)

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Array:
        """One column, float64 [n]."""
        values: Array = self.rows[:, COLUMNS.index(name)]
        return values

    @property
    def balance(self) -> Array:
        """⟨u, v⟩ - ½‖v‖² of each image, whose mean is the balance."""
        return self.column("product") - self.column("power")

    def of_class(self, label: int) -> "Images":
        """The images of one class."""
        return Images(self.rows[self.column("label") == label], self.independent)

    def controls(self) -> Array:
        """What goes with the values of an image and has mean zero, [n, 1 or 2]."""
        names = ("noise", "cross") if self.independent else ("noise",)
        return np.stack([self.column(name) for name in names], 1)


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    value: float
    error: float


def mean_over_time(images: Images, values: Array) -> Mean:
    """Mean of `values` [n], one an image, over the images and over t in [0, 1].

    The intercept of a least-squares fit to control variates of mean zero: those of the noise, and Legendre
    polynomials in t, which leave to the error only what stratified times leave open. The error is that of the fit,
    robust to a spread that depends on t (HC1); it is that of other images, times and noises.
    """
    t = images.column("t")
    degree = min(DEGREE, max(len(t) // 8 - 1, 0))
    over_time = legendre.legvander(2 * t - 1, degree)[:, 1:]
    return _intercept(values, np.concatenate([images.controls(), over_time], 1))


def mean_of_samples(energy: Array, start: Array) -> Mean:
    """Mean energy of samples [n] and its error; `start` [n] is ‖x0‖² - D of each, whose mean is zero."""
    return _intercept(energy, start[:, None])


def _intercept(values: Array, controls: Array) -> Mean:
    """Mean of `values` [n] by a fit to `controls` [n, k] of mean zero; the plain one where there are too few."""
    n, k = controls.shape
    if n < 2:
        return Mean(float(values.mean()) if n else math.nan, math.nan)
    if n < 4 * (k + 1):
        return Mean(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)))
    scale = np.sqrt(np.square(controls).mean(0))
    design = np.concatenate([np.ones((n, 1)), controls / np.where(scale > 0, scale, 1)], 1)
    inverse = np.linalg.pinv(design)
    fitted = inverse @ values
    left = values - design @ fitted
    error = math.sqrt(float(np.square(inverse[0] * left).sum()) * n / (n - k - 1))
    return Mean(float(fitted[0]), error)


@dataclass(frozen=True)
class Balance:
    """The energy balance of one field; energies in the unit of ½‖x‖².

    Attributes:
        conditional: A of the held-out images, the energy of straight lines from noise to them.
        held_out: balance of the held-out images.
        train: balance of as many training images; None without any.
        power: mean energy of the generated samples.
        excess: `power` less `held_out`, with its 95 % interval `excess_low` to `excess_high`.
        gap: `train` less `held_out`, with its interval `gap_low` to `gap_high`; NaN without training images.
        since: the time from which on the excess of every bin lies above 0, None where the last bin's does not.
        profile: over bins of t: columns t (middle), power, conditional, held_out, train, excess and gap with their
            intervals, and gain (η*, the least-squares gain of the field on held-out images; 1 is a perfect field).
        classes: the same numbers as above for each class, without a profile.
    """

    conditional: float
    held_out: float
    train: float | None
    power: float
    excess: float
    excess_low: float
    excess_high: float
    gap: float
    gap_low: float
    gap_high: float
    since: float | None
    profile: dict[str, Array]
    classes: "dict[int, Balance]"


@dataclass(frozen=True)
class Spent:
    """What generated samples spent.

    Attributes:
        energy: of each, float64 [n].
        start: ‖x0‖² - D of the noise that each began at [n].
        times: where each step starts [steps], and `power` [steps, n] is ½‖v‖² there.
        labels: class of each [n], -1 without.
    """

    energy: Array
    start: Array
    times: Array
    power: Array
    labels: Array

    @classmethod
    def drawn(
        cls, seeds: Array, shape: Sequence[int], *, energy: Array, times: Array, power: Array, labels: Array
    ) -> "Spent":
        """What the samples of `seeds` [n], of `shape` each, spent; their noise follows from the seeds."""
        norms = [float(squared_norm(seeded_noise([seed], shape))) for seed in seeds]
        return cls(energy, np.array(norms) - math.prod(shape), times, power, labels)

    def of_class(self, label: int) -> "Spent":
        """The samples of one class."""
        keep = self.labels == label
        return Spent(self.energy[keep], self.start[keep], self.times, self.power[:, keep], self.labels[keep])


def energy_balance(spent: Spent, held_out: Images, train: Images | None = None, *, bins: int = BINS) -> Balance:
    """Balance what samples spent with what real images bear out; KineticError without either."""
    if not len(held_out) or not len(spent.energy):
        raise KineticError("an energy balance needs held-out images and samples, and there are none that are finite")
    labels = sorted({int(label) for label in spent.labels} & {int(label) for label in held_out.column("label")})
    classes = {}
    for label in labels if labels != [-1] else []:
        parts = spent.of_class(label), held_out.of_class(label), None if train is None else train.of_class(label)
        classes[label] = _balance(*parts, bins=0, classes={})
    return _balance(spent, held_out, train, bins=bins, classes=classes)


def _balance(
    spent: Spent, held_out: Images, train: Images | None, *, bins: int, classes: dict[int, Balance]
) -> Balance:
    power, held = mean_of_samples(spent.energy, spent.start), mean_over_time(held_out, held_out.balance)
    excess, gap = _difference(power, held), _difference(_mean(train), held)
    profile = _profile(spent, held_out, train, bins) if bins else {}
    return Balance(
        conditional=mean_over_time(held_out, held_out.column("conditional")).value,
        held_out=held.value,
        train=None if train is None or not len(train) else _mean(train).value,
        power=power.value,
        **_named("excess", excess),
        **_named("gap", gap),
        since=_since(profile) if bins else None,
        profile=profile,
        classes=classes,
    )


def _mean(images: Images | None) -> Mean:
    """The balance of images that there may be."""
    return Mean(math.nan, math.nan) if images is None or not len(images) else mean_over_time(images, images.balance)


def _difference(one: Mean, other: Mean) -> tuple[float, float, float]:
    """One mean less another that it does not depend on, and the ends of the 95 % interval."""
    value, half = one.value - other.value, Z * math.hypot(one.error, other.error)
    return value, value - half, value + half


def _named(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def _profile(spent: Spent, held_out: Images, train: Images | None, bins: int) -> dict[str, Array]:
    edges = np.linspace(0, 1, bins + 1)
    columns: dict[str, list[float]] = {name: [] for name in ("t", *NUMBERS)}
    weights = np.diff(np.append(spent.times, 1.0))
    for low, high in pairwise(edges):
        power = _power_between(spent, weights, low, high)
        held, real = _between(held_out, held_out.balance, low, high), _part(held_out, low, high)
        nothing = Mean(math.nan, math.nan)
        seen = nothing if train is None else _between(train, train.balance, low, high)
        found = {
            "t": (low + high) / 2,
            "power": power.value,
            "conditional": _between(held_out, held_out.column("conditional"), low, high).value,
            "held_out": held.value,
            "train": seen.value,
            **_named("excess", _difference(power, held)),
            **_named("gap", _difference(seen, held)),
            "gain": real.column("product").sum() / max(2 * real.column("power").sum(), 1e-30),
        }
        for name, value in found.items():
            columns[name].append(float(value))
    return {name: np.array(values) for name, values in columns.items()}


NUMBERS = (
    *("power", "conditional", "held_out", "train"),
    *("excess", "excess_low", "excess_high", "gap", "gap_low", "gap_high", "gain"),
)


def _part(images: Images, low: float, high: float) -> Images:
    t = images.column("t")
    return Images(images.rows[(t >= low) & (t < high)], images.independent)


def _between(images: Images, values: Array, low: float, high: float) -> Mean:
    """Mean of `values` over the images whose time lies in [low, high)."""
    t = images.column("t")
    inside = (t >= low) & (t < high)
    return _intercept(values[inside], images.controls()[inside])


def _power_between(spent: Spent, weights: Array, low: float, high: float) -> Mean:
    """Mean power of the samples over the steps that start in [low, high), else at its middle."""
    inside = (spent.times >= low) & (spent.times < high)
    if inside.any():
        values = weights[inside] @ spent.power[inside].astype(np.float64) / weights[inside].sum()
    else:
        values = np.array([np.interp((low + high) / 2, spent.times, row) for row in spent.power.T])
    return _intercept(values, spent.start[:, None])


def _since(profile: dict[str, Array]) -> float | None:
    """Where the bins begin whose excess lies above 0 from there to the end."""
    above = profile["excess_low"] > 0
    if not above[-1]:
        return None
    first = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    return first / len(above)


Labelled = Iterable[tuple[Tensor, Tensor, "Tensor | None"]]  # images [b, ...], their numbers [b], their labels [b]
Pairing = Callable[[Tensor, Tensor], Tensor]


def image_terms(
    field: Field,
    chunks: Labelled,
    *,
    count: int,
    path: AffinePath,
    pairing: Pairing | None = None,
    device: torch.device | str = "cpu",
    precision: str = "32",
) -> Tensor:
    """Evaluate a field once at each image of some chunks, under the time and noise of its number: [n, 9] float64.

    Args:
        field: that is judged.
        chunks: of images, see `FlowDataModule.labelled`.
        count: images in all, over all processes.
        path: that the field was trained on.
        pairing: (x0, x1) -> the order [b] in which the images go with the noise; as drawn, if None.
        device: to compute on.
        precision: of the network, as of `draw`.
    """
    times, parts = stratified_times(count), []
    with torch.no_grad(), evaluating(field.net):
        for images, index, labels in chunks:
            x0, x1 = seeded_noise(index + NOISE, images.shape[1:]).to(device), images.to(device)
            if pairing is not None:
                order = pairing(x0, x1)
                x1, labels = x1[order], None if labels is None else labels[order.cpu()]
            wanted = labels if field.num_classes is not None else None
            velocity = velocity_of(field, x1, labels=wanted, precision=precision)
            parts.append(
                balance_terms(velocity, x0, x1, times[index].to(device), path=path, index=index, labels=wanted)
            )
    return torch.cat(parts) if parts else torch.empty(0, len(COLUMNS), dtype=torch.float64)


def refusal(sampler: Sampler) -> str | None:
    """Why the samples of a sampler do not balance, None where they do.

    Noise does not keep them from it: with the optimal field its samples have the marginals of the path, as those of the
    ODE have, so that the power of the *field* is the same at every t. That of the executed drift is not.
    """
    if sampler.guidance != 1:
        return f"guidance {sampler.guidance:g} leaves the marginals of the path"
    if not sampler.kts.is_off:
        return "shaped samples leave the marginals of the path"
    return "the flow is stopped early" if sampler.end != 1 else None
