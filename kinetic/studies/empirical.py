"""The closed-form field of the training set against a network: at the network's states, and on the way to images.

Near t = 1 the closed form points at single training images with a velocity that grows as 1/(1-t) wherever a state is
off them: its power grows as (1-t)⁻². That of a network that does not copy stays bounded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.flow.empirical import LAST
from kinetic.flow.field import Field, evaluating
from kinetic.flow.measures import power
from kinetic.flow.paths import LINEAR
from kinetic.flow.sampling import Sampler, draw, velocity_of
from kinetic.flow.seeds import Labels, seed_loader
from kinetic.flow.solvers import FIXED
from kinetic.metrics.detection import mean_estimate
from kinetic.metrics.statistics import Estimate
from kinetic.models.opening import Origin
from kinetic.report.findings import Cell
from kinetic.studies.likelihood import labels_of_images
from kinetic.tensors import chunks, seeded_noise, squared_norm

TIMES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
NOISE = 2**42  # seed of the noise of the first image
FITTED = 0.9  # from when on exponents are fitted


@dataclass(frozen=True)
class States:
    """States x [T, N, ...] at T times, with labels [N] or None, on the CPU."""

    x: Tensor
    labels: Tensor | None


def check_closed_form(origin: Origin) -> None:
    """Raise KineticError where the optimal field of the training set is not known in closed form."""
    if origin.field.path.name != LINEAR.name:
        raise KineticError(
            f"the closed form is that of the linear path, and {origin.name} is on {origin.field.path.name}"
        )
    if origin.coupling != "independent":
        raise KineticError(
            f"the closed form is that of independent noise, and {origin.name} paired it: {origin.coupling}"
        )


def checked_times(times: Sequence[float]) -> tuple[float, ...]:
    """Times that rise from 0 or later to 1 - 1e-4 at most; KineticError for others."""
    rising = all(a < b for a, b in pairwise(times))
    if not times or not rising or not times[0] >= 0 or not times[-1] <= LAST:
        raise KineticError(
            f"times must rise and lie in 0 to {LAST}, got {', '.join(f'{t:g}' for t in times) or 'none'}"
        )
    return tuple(times)


def states_of_samples(
    field: Field,
    seeds: Sequence[int],
    *,
    sampler: Sampler,
    times: Sequence[float],
    labels: Labels = "balanced",
    batch_size: int = 64,
    precision: str = "32",
    device: torch.device | str = "cpu",
) -> States:
    """States of samples of `seeds` at `times` on their way by a fixed method, whose grid is refined to meet these."""
    if sampler.method not in FIXED:
        raise KineticError(f"states at given times need a fixed grid; use one of {', '.join(FIXED)}")
    grid = tuple(sorted({*sampler.times(), *times}))
    rows = [grid.index(t) for t in times]
    how = {"sampler": replace(sampler, grid=grid), "precision": precision, "device": device}
    classes = field.num_classes
    loader = seed_loader(seeds, labels=labels if classes else None, num_classes=classes, batch_size=batch_size)
    found, known = [], []
    for batch in progress("drawing", "batches", over=loader):
        count = len(batch["seeds"])
        drawn = draw(field, batch["seeds"], labels=batch["labels"], measures=(), keep_path=count, **how)  # type: ignore[arg-type]
        found.append(drawn.path[rows].cpu())  # type: ignore[index]
        known.append(batch["labels"])
    return States(torch.cat(found, 1), torch.cat(known) if classes else None)


def states_of_images(
    field: Field, data: FlowDataModule, *, held_out: bool, images: int, times: Sequence[float]
) -> States:
    """States (1 - t) x0 + t x1 of at most `images` images x1, each under one noise of its own at all t."""
    parts = list(data.labelled(held_out=held_out, limit=images))
    if not parts:
        raise KineticError(f"{data.name} has no {'held-out' if held_out else 'training'} images")
    x, numbers = torch.cat([one for one, _, _ in parts]), torch.cat([some for _, some, _ in parts])
    noise = seeded_noise(numbers + NOISE, x.shape[1:])
    labels = None if parts[0][2] is None else torch.cat([one for _, _, one in parts if one is not None])
    return States(torch.stack([torch.lerp(noise, x, t) for t in times]), labels_of_images(field, labels))


def velocities(
    field: Field,
    states: States,
    times: Sequence[float],
    *,
    batch_size: int = 64,
    precision: str = "32",
    guidance: float = 1.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Velocities [T, N, ...] of a field at states, on the CPU."""
    if isinstance(field.net, torch.nn.Module):
        field.net.to(device)
    found = torch.empty_like(states.x)
    with evaluating(field.net):
        for number, t in enumerate(times):
            for part in chunks(states.x.shape[1], batch_size):
                x = states.x[number, part].to(device)
                labels = None if states.labels is None else states.labels[part]
                velocity = velocity_of(field, x, labels=labels, guidance=guidance, precision=precision)
                found[number, part] = velocity(x, x.new_full(x.shape[:1], t)).cpu()
    return found


@dataclass(frozen=True)
class Comparison:
    """Two fields at the same states, [T, N] each: powers, squared distance ‖v - v*‖², and cosine."""

    network: Tensor
    closed: Tensor
    distance: Tensor
    cosine: Tensor

    @classmethod
    def of(cls, v: Tensor, best: Tensor) -> "Comparison":
        """Compare velocities `v` of a network with `best` ones of the closed form, [T, N, ...]."""
        own, theirs = v.flatten(2).double(), best.flatten(2).double()

        def each(measure: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
            return torch.stack([measure(rows) for rows in values])

        return cls(
            network=each(power, own),
            closed=each(power, theirs),
            distance=each(squared_norm, own - theirs),
            cosine=torch.nn.functional.cosine_similarity(own, theirs, dim=2),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The same as arrays by name."""
        return {name: getattr(self, name).cpu().numpy() for name in ("network", "closed", "distance", "cosine")}

    @property
    def relative(self) -> Tensor:
        """Mean squared distance over mean squared norm of the closed form, [T]."""
        return self.distance.mean(1) / (2 * self.closed.mean(1))

    def rows(self, times: Sequence[float]) -> Iterator[dict[str, Cell]]:
        """What is found at each time."""
        for number, t in enumerate(times):
            yield {
                "t": t,
                "power_network": mean_estimate(self.network[number].numpy()),
                "power_closed_form": mean_estimate(self.closed[number].numpy()),
                "distance": mean_estimate(self.distance[number].numpy()),
                "relative_distance": float(self.relative[number]),
                "cosine": mean_estimate(self.cosine[number].numpy()),
            }


def exponent(times: Sequence[float], powers: Tensor) -> Estimate:
    """k where mean `powers` [T, N] go as (1-t)⁻ᵏ from t = 0.9 on, by least squares of logarithms; NaN without 2 times.

    The interval is of quantiles over 200 resamplings of the N states.
    """
    late = [number for number, t in enumerate(times) if t >= FITTED - 1e-9]
    if len(late) < 2:
        return Estimate(np.nan, np.nan, np.nan)
    x, y = -np.log1p(-np.asarray(times)[late]), powers[late].double().numpy()

    def slope(values: np.ndarray) -> float:
        return float(np.polyfit(x, np.log(np.maximum(values.mean(1), 1e-300)), 1)[0])

    picks = np.random.default_rng(0).integers(y.shape[1], size=(200, y.shape[1]))
    low, high = np.quantile([slope(y[:, pick]) for pick in picks], [0.025, 0.975])
    return Estimate(slope(y), float(low), float(high))
