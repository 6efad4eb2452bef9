"""F_mem cleaned: noise on samples hides copies, so samples and training images are denoised before they are compared.

Both go through an independent network, one that was trained on other images: x_t = t x + (1 - t) ε at t = 0.9, and
x̂ = x_t + (1 - t) v(x_t, t), the mean over a few noises that are the same for all images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Field, evaluating
from kinetic.flow.sampling import velocity_of
from kinetic.images import ImageSet, Item
from kinetic.memorization.copies import prepare
from kinetic.memorization.training_set import CACHE_BYTES, TrainingSet
from kinetic.metrics.reference import ReferenceIndex, wide
from kinetic.tensors import seed_from, seeded_noise

CLEAN = 0xC1EA  # keeps the noises of cleaning apart from those that samples start from
TIME, NOISES, BATCH = 0.9, 4, 256
Clean = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cleaned:
    """How images are cleaned, and the training images after that."""

    clean: Clean
    training_set: TrainingSet


def cleaner(
    field: Field,
    *,
    t: float = TIME,
    noises: int = NOISES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "32",
) -> Clean:
    """Make images [B, ...] into what `field` takes them for -> [B, ...] float32, on the device they came from.

    Noise k is a function of (seed, k). A network with classes is asked for none of them, by the label that means none.
    """
    if not 0 < t < 1 or noises < 1:
        raise KineticError(f"cleaning needs a time in (0, 1) and at least one noise, got {t} and {noises}")
    if field.path.name != "linear":
        raise KineticError(f"cleaning needs a network of the linear path, and this one is of {field.path.name}")
    if field.num_classes is not None and not field.null_label:
        raise KineticError("cleaning needs a network without classes, or one that was trained without them too")
    if isinstance(field.net, torch.nn.Module):
        field.net.to(device)

    def clean(images: Tensor) -> Tensor:
        with evaluating(field.net):
            parts = [_cleaned(field, x.to(device), t, noises, seed, precision) for x in images.split(BATCH)]
        return torch.cat(parts).to(images.device)

    return clean


def _cleaned(field: Field, x: Tensor, t: float, noises: int, seed: int, precision: str) -> Tensor:
    x, total = wide(x), torch.zeros_like(wide(x))
    velocity = velocity_of(field, x, labels=field.num_classes, precision=precision)
    for k in range(noises):
        noise = seeded_noise([seed_from(seed, k, CLEAN)], x.shape[1:]).to(x)
        xt = torch.lerp(noise, x, t)
        total += xt + (1 - t) * velocity(xt, x.new_full(x.shape[:1], t)).to(x.dtype)
    return total / noises


def cleaned_set(training_set: TrainingSet, clean: Clean) -> TrainingSet:
    """The training images of a set after `clean`, their mirror images where it has them, by the same rule.

    Images that were identical count as one. It has no null.
    """
    raw = training_set.index
    groups = dict(zip(raw.ids.tolist(), raw.groups.tolist(), strict=True))

    def images() -> Iterator[Item]:
        for _, flat, ids in raw.source.chunks(BATCH, device=raw.device, scaled=True):
            x, numbers = flat.unflatten(1, raw.shape), torch.tensor([groups[i] for i in ids.tolist()])
            yield from ((clean(view), numbers) for view in ([x, x.flip(-1)] if raw.flip else [x]))

    source = ImageSet.of(images, "the cleaned training set").kept(raw.device, CACHE_BYTES)
    index = prepare(ReferenceIndex.build(source, device=raw.device))
    return replace(training_set, index=index, names={}, null=None)
