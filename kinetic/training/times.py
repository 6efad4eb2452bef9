"""The random choices of a training step beside the noise: times t in [0, 1), and which labels are dropped.

Every draw takes its own generator, so that it is a function of (seed, rank, step); see `kinetic.tensors.generator`.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.errors import KineticError

KINDS = ("uniform", "stratified", "logit_normal")
UNTRAINED = (
    "guidance steers away from the label that stands for no class, which is trained only with label_dropout above 0 "
    "(--model.label_dropout 0.1), and here was not"
)
LAST = 1 - 2**-24  # the last float32 before 1, where the paths and the empirical field may be singular


@dataclass(frozen=True)
class TrainingTimes:
    """How the times of a training batch are distributed.

    Attributes:
        kind: uniform (independent); stratified (uniform too, but one in each of [k/n, (k+1)/n), in random order: the
            same loss with less noise); logit_normal (sigmoid of a normal; Esser et al., arXiv 2403.03206).
        mean: of the normal behind logit_normal; above 0 leans towards the data, as EDM's noise levels do (mean 1.2,
            std 1.2 in our direction of time).
        std: of that normal, above 0.
    """

    kind: str = "uniform"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise KineticError(f"unknown kind of times {self.kind!r}: choose from {', '.join(KINDS)}")
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise KineticError(
                f"logit-normal times need a finite mean and 0 < std, got mean={self.mean}, std={self.std}"
            )
        if self.kind != "logit_normal" and (self.mean, self.std) != (0.0, 1.0):
            raise KineticError(
                f"{self.kind} times have no mean or std, got mean={self.mean}, std={self.std}: use kind 'logit_normal'"
            )


def draw_times(n: int, generator: torch.Generator, times: TrainingTimes = TrainingTimes()) -> Tensor:
    """Draw `n` times, float32 [n] in [0, 1), on the device of the generator."""
    if n < 0:
        raise KineticError(f"the number of times must be at least 0, got {n}")
    device = generator.device
    if times.kind == "uniform":
        t = torch.rand(n, generator=generator, device=device)
    elif times.kind == "stratified":
        t = _stratified(n, generator)
    else:
        t = torch.sigmoid(times.mean + times.std * torch.randn(n, generator=generator, device=device))
    return t.clamp(max=LAST)


def validation_times(n: int) -> Tensor:
    """Return the midpoints (k + ½)/n of `n` strata, float32 [n] on the CPU, in a fixed order; no randomness at all.

    The order takes golden-ratio strides: each run of neighbours is spread over [0, 1] too, so that every batch of a
    validation set sees all times, and times do not follow the order of the images. Raises ValueError for n < 0.
    """
    if n < 0:
        raise KineticError(f"the number of times must be at least 0, got {n}")
    first = max(1, round(n * (math.sqrt(5) - 1) / 2))
    stride = next(s for s in itertools.count(first) if math.gcd(s, n) == 1) if n else 1
    strata = torch.arange(n) * stride % max(n, 1)
    return ((strata.double() + 0.5) / max(n, 1)).float()


def drop_labels(labels: Tensor, probability: float, null: int, generator: torch.Generator) -> Tensor:
    """Replace each of `labels`, int64 [B], by `null` with the given probability in [0, 1]; the input is left alone.

    Trains the unconditional half of classifier-free guidance (Ho and Salimans, arXiv 2207.12598). The draw is made on
    the generator's device and takes as much randomness whatever the probability. Raises ValueError out of range.
    """
    if not 0 <= probability <= 1:
        raise KineticError(f"the probability of dropping a label must lie in [0, 1], got {probability}")
    if null < 0:
        raise KineticError(f"the null label must be at least 0 (it is the number of classes), got {null}")
    chance = torch.rand(labels.shape, generator=generator, device=generator.device)
    return labels.masked_fill((chance < probability).to(labels.device), null)


def _stratified(n: int, generator: torch.Generator) -> Tensor:
    """Draw one time from each stratum; offsets keep clear of the borders by more than float32 may round."""
    offsets = torch.rand(n, generator=generator, device=generator.device)
    strata = torch.randperm(n, generator=generator, device=generator.device)
    margin = min(n * 2.0**-22, 0.5)
    return (strata + offsets.clamp(margin, 1 - margin)) / max(n, 1)


def checked_dropout(probability: float, num_classes: int | None) -> float:
    """Refuse a probability of dropping labels that is none, or that has no labels to drop."""
    if not 0 <= probability <= 1 or math.isnan(probability):
        raise KineticError(f"label_dropout must lie in [0, 1], got {probability}")
    if probability > 0 and num_classes is None:
        raise KineticError("label_dropout is set, but the network is unconditional; set label_dropout to 0")
    return probability
