"""How good samples are as a set, from one pass of features: FID with its bias, KID, precision, recall and their like.

    net = extractor("pca:32", training=Training(images=data.reference))
    real = RealFeatures.of(features(data.held_out, net), split="held out", extractor=net)
    quality_of(features(samples, net), real, seeds="0-799").fid

Called FID here whatever the features are: a published FID is one of `inception` alone, and of as many images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.metrics.kernels import SUBSET_SIZE, SUBSETS, kernel_distance
from kinetic.metrics.manifolds import overlap
from kinetic.metrics.moments import Moments, frechet_distance, moments
from kinetic.metrics.protocol import Protocol
from kinetic.metrics.real import RealFeatures, check_features
from kinetic.tensors import generator

PARTS = 5  # the fewest images that FID∞ extrapolates from are a fifth


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures of one set of samples, and how they came about."""

    fid: float  # Fréchet distance; too high by about c / samples for some c
    fid_infinity: float  # the same, extrapolated to infinitely many samples; noisy, and below 0 at times
    fid_halves: float  # of two random halves of the real images: what chance alone amounts to at half their number
    kid: float
    kid_error: float  # standard error
    precision: float
    recall: float
    density: float
    coverage: float
    protocol: Protocol

    def numbers(self) -> dict[str, float]:
        """Figures by name; the Fréchet distance has the number of samples in its name, as it depends on that."""
        names = ("fid_infinity", "fid_halves", "kid", "kid_error", "precision", "recall", "density", "coverage")
        return {f"fid_{self.protocol.samples}": self.fid, **{name: getattr(self, name) for name in names}}

    def minus(self, other: "Quality", *, varying: tuple[str, ...] = ()) -> dict[str, float]:
        """Differences of the figures; KineticError where the protocols differ other than in `varying`."""
        self.protocol.check_comparable(other.protocol, varying=varying)
        there = list(other.numbers().values())
        return {name: value - there[i] for i, (name, value) in enumerate(self.numbers().items())}


def quality_of(
    samples: Tensor,
    real: Tensor | RealFeatures,
    *,
    k: int | None = None,
    seed: int = 0,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    device: torch.device | str = "cpu",
    solver: str | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    weights: str | None = None,
    seeds: str | None = None,
) -> Quality:
    """Measure features of samples [M, F] against those of real images [N, F], at least ten of each.

    Args:
        samples: features of the samples, all finite.
        real: features of real images, or prepared once by `RealFeatures.of`, which then says what they are.
        k: which neighbour sets a radius: 3, or that of prepared features.
        seed: of the subsets of KID, of the parts of FID∞, and of the halves where `real` is not prepared.
        subsets: of KID, and subset_size: images in each.
        device: where neighbours are searched; it needs float64.
        solver: how the samples were drawn, as are steps, nfe, weights and seeds: stated in the protocol.
    """
    check_features(samples, "samples")
    if isinstance(real, Tensor):
        real = RealFeatures.of(real, k=3 if k is None else k, seed=seed, device=device)
    check_matching(samples, real)
    if k not in (None, real.k):
        raise KineticError(f"k={k}, but the real features were prepared with k={real.k}; prepare them with the same k")
    found = samples.detach().float().cpu()
    kid = kernel_distance(found, real.features, subsets=subsets, subset_size=subset_size, seed=seed)
    near = overlap(found.to(device), real.features.to(device), real.radii.to(device), k=real.k)
    return Quality(
        fid=frechet_distance(moments(found), real.moments),
        fid_infinity=fid_infinity(found, real.moments, seed=seed),
        fid_halves=real.halves,
        kid=kid.value,
        kid_error=kid.error,
        precision=near.precision,
        recall=near.recall,
        density=near.density,
        coverage=near.coverage,
        protocol=Protocol(
            samples=len(found),
            real=len(real.features),
            split=real.split,
            extractor=real.extractor,
            extractor_hash=real.extractor_hash,
            resize=real.resize,
            k=real.k,
            solver=solver,
            steps=steps,
            nfe=nfe,
            weights=weights,
            seeds=seeds,
        ),
    )


def fid_infinity(samples: Tensor, real: Moments, *, seed: int = 0) -> float:
    """Fréchet distance of infinitely many samples like these [M, F] (Chong and Forsyth 2020, arXiv 1911.07023).

    A line in 1 / n through the distances of all samples, of halves, thirds, ... fifths, each averaged over its disjoint
    random parts, read off at 0. The bias of the real images, which are as many throughout, stays.
    """
    order = torch.randperm(len(samples), generator=generator(seed))
    sizes = [len(samples) // parts for parts in range(1, PARTS + 1)]
    if sizes[-1] < 2:
        raise KineticError(f"FID∞ needs at least {2 * PARTS} samples, got {len(samples)}")
    values = []
    for parts, size in enumerate(sizes, 1):
        rows = order[: parts * size].view(parts, size)
        values.append(sum(frechet_distance(moments(samples[part]), real) for part in rows) / parts)
    return extrapolated(sizes, values)


def extrapolated(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Value at n = ∞ of the line in 1 / n that fits `values` at `sizes` best, by least squares."""
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    y = torch.tensor(values, dtype=torch.float64)
    x = inverse - inverse.mean()
    return float(y.mean() - inverse.mean() * (x @ y) / (x @ x))


def check_matching(samples: Tensor, real: RealFeatures) -> None:
    """Raise KineticError unless both have as many features."""
    if samples.shape[1] != real.features.shape[1]:
        raise KineticError(
            f"samples have {samples.shape[1]} features and real images {real.features.shape[1]}; use one extractor"
        )
