"""What real images say about a field: evaluations of it at each, every one under a time and noise of its own.

Rows of numbers, on the CPU, from which `memorization.balance` makes balances of any part of the images.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinetic.flow.field import Field, Velocity, evaluating
from kinetic.flow.paths import AffinePath
from kinetic.flow.sampling import velocity_of
from kinetic.tensors import generator, seeded_noise, squared_norm

Array = NDArray[Any]

NOISE = 2**40  # seed of the first image's noise, far from those of samples
COLUMNS = ("index", "image", "label", "t", "conditional", "power", "product", "noise", "cross")


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
    image: Tensor | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Evaluate the field once at each row: float64 [B, 9] on the CPU, its columns COLUMNS.

    Args:
        velocity: called as velocity(xt, t) -> [B, ...].
        x0: noise [B, ...], paired with the images as in training.
        x1: images [B, ...].
        t: times [B] in [0, 1).
        path: that the field was trained on.
        index: number of each evaluation [B].
        image: number of the image of each [B]; `index`, if None: no image comes twice.
        labels: class of each image [B], for the balance of each class; none is -1.
    """
    sample = path.sample(x0, x1, t)
    v = velocity(sample.xt, t).to(sample.target.dtype)
    u = sample.target
    columns = [
        index.to(u.device),
        (index if image is None else image).to(u.device),
        torch.full_like(index, -1).to(u.device) if labels is None else labels.to(u.device),
        sample.t,
        squared_norm(u) / 2,
        squared_norm(v) / 2,
        (u * v).flatten(1).sum(1),
        squared_norm(x0) - x0[0].numel(),
        (x0 * x1).flatten(1).sum(1),
    ]
    return torch.stack([column.double() for column in columns], 1).cpu()


@dataclass(frozen=True)
class Images:
    """What a set of real images says about a field: rows as `balance_terms` makes them, sorted by index.

    An image may come several times, under other times and noises; errors then are those of other images.

    `independent` says that noise and images were paired at random, so that the mean of ⟨x0, x1⟩ is known.
    """

    rows: Array
    independent: bool = True

    @classmethod
    def of(cls, parts: "list[Tensor]", *, independent: bool = True) -> "Images":
        """Put the rows of all processes together, each evaluation once."""
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
        """⟨u, v⟩ - ½‖v‖² of each evaluation, whose mean is the balance."""
        return self.column("product") - self.column("power")

    def of_class(self, label: int) -> "Images":
        """The images of one class."""
        return Images(self.rows[self.column("label") == label], self.independent)

    def controls(self) -> Array:
        """What goes with the values of an evaluation and has mean zero, [n, 1 or 2]."""
        names = ("noise", "cross") if self.independent else ("noise",)
        return np.stack([self.column(name) for name in names], 1)


Labelled = Iterable[tuple[Tensor, Tensor, "Tensor | None"]]  # images [b, ...], their numbers [b], their labels [b]
Pairing = Callable[[Tensor, Tensor], Tensor]


def image_terms(
    field: Field,
    chunks: Labelled,
    *,
    count: int,
    path: AffinePath,
    repeats: int = 1,
    pairing: Pairing | None = None,
    device: torch.device | str = "cpu",
    precision: str = "32",
) -> Tensor:
    """Evaluate a field at each image of some chunks, `repeats` times under other times and noises: [n, 9] float64.

    Args:
        field: that is judged.
        chunks: of images, see `FlowDataModule.labelled`.
        count: images in all, over all processes.
        path: that the field was trained on.
        repeats: evaluations of each image.
        pairing: (x0, x1) -> the order [b] in which the images go with the noise; as drawn, if None.
        device: to compute on.
        precision: of the network, as of `draw`.
    """
    times, parts = stratified_times(count * repeats), []
    with torch.no_grad(), evaluating(field.net):
        for images, numbers, labels in chunks:
            wanted, given = labels if field.num_classes is not None else None, images.to(device)
            for repeat in range(repeats):
                index, image, x1, own = numbers + repeat * count, numbers, given, wanted
                x0 = seeded_noise(index + NOISE, images.shape[1:]).to(device)
                if pairing is not None:
                    order = pairing(x0, x1)
                    x1, image = x1[order], numbers[order.cpu()]
                    own = None if wanted is None else wanted[order.cpu()]
                velocity = velocity_of(field, x1, labels=own, precision=precision)
                t = times[index].to(device)
                parts.append(balance_terms(velocity, x0, x1, t, path=path, index=index, image=image, labels=own))
    return torch.cat(parts) if parts else torch.empty(0, len(COLUMNS), dtype=torch.float64)
