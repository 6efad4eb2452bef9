"""Empirical flow matching: the optimal velocity of the linear path for a finite training set, in closed form.

    v(x, t) = Σᵢ wᵢ (xᵢ - x) / (1 - t),    w = softmaxᵢ( -‖x - t xᵢ‖² / (2 (1 - t)²) )

Following it copies training images: it is the memorising limit that trained networks are compared with. The softmax is
streamed over the training set with a running maximum, so memory is O(batch × chunk) whatever the size of the set; and
over processes, each of which holds a share of it: their sums are brought to one maximum, and added.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.posterior import PosteriorMean
from kinetic.images import ImageSet, ImageSource
from kinetic.ranks import gather_rows, place, reduce_, together
from kinetic.tensors import Scratch, chunks, exact_products

LAST = 1 - 1e-4  # the field is singular at t = 1; later times are taken as this one
NO_DENSITY = "it flows onto its training images, so that its samples have no density"
FINE = 2**17  # numbers whose squares are added at a time, in a cache


class EmpiricalVelocity:
    """The closed-form field of a training set; it drops in wherever a network `net(x, t, labels)` does."""

    def __init__(
        self,
        images: ImageSource,
        labels: "Tensor | np.ndarray | None" = None,
        *,
        num_classes: int | None = None,
        chunk: int = 4096,
        shared: bool = False,
    ) -> None:
        """Prepare the field of `images` [N, ...]: a tensor on any device, or any other source of an `ImageSet`, which
        is read at every call. Floats are taken as they are; uint8 as pixels, to [-1, 1].

        With `labels` int64 [N] in [0, num_classes) a call may ask for classes, where `num_classes` (by default one more
        than the largest label) means all. `chunk` images are looked at together.

        With `shared` the images are this process's share of the set: all processes make the field, and call it equally
        often, each with states of its own, of any number.
        """
        if chunk < 1:
            raise KineticError(f"chunk must be at least 1, got {chunk}")
        self.chunk, self.shared = chunk, shared and place()[1] > 1
        self._images = ImageSet.of(images, "the training set")
        self._labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64).cpu()
        self._norms = together(self._survey, shared=self.shared)
        self.sample_shape = tuple(self._images.shape)
        self.num_classes, self._counts = together(lambda: self._classes(num_classes), shared=self.shared)
        self._total, self._largest = len(self._norms), float(self._norms.max())
        if self.shared:
            self._total = int(reduce_(torch.tensor(self._total)))
            self._share_classes(fixed=num_classes is not None)

    def _survey(self) -> Tensor:
        """Squared norm of every image, float64 [N]."""
        numbers: list[float] = []  # not tensors, which between the chunks would fragment the heap
        double = Scratch()
        for _, images, _ in self._images.chunks(256, scaled=True, reuse=True):
            for part in chunks(len(images), max(1, FINE // max(images.shape[1], 1))):
                block = images[part].cpu()
                numbers += double.empty(block.shape, torch.float64).copy_(block).square_().sum(1).tolist()
        norms = torch.tensor(numbers, dtype=torch.float64)
        if not norms.isfinite().all():
            raise KineticError(f"image {int((~norms.isfinite()).nonzero()[0])} of {self._images.name} is not finite")
        return norms

    def _classes(self, num_classes: int | None) -> tuple[int | None, Tensor | None]:
        if self._labels is None:
            if num_classes is not None:
                raise KineticError(f"num_classes {num_classes} needs the labels of the images")
            return None, None
        if self._labels.shape != self._norms.shape:
            raise KineticError(f"labels must be one for each of {len(self._norms)} images, got {len(self._labels)}")
        num_classes = int(self._labels.max()) + 1 if num_classes is None else num_classes
        if self._labels.min() < 0 or self._labels.max() >= num_classes:
            raise KineticError(f"labels of the training set must lie in 0 to {num_classes - 1}")
        return num_classes, torch.bincount(self._labels, minlength=num_classes)

    def _share_classes(self, *, fixed: bool) -> None:
        """Count the images of each class in all processes."""
        if self._counts is None:
            return
        assert self.num_classes is not None
        if not fixed:
            self.num_classes = int(reduce_(torch.tensor(self.num_classes), "max"))
        counts = torch.zeros(self.num_classes, dtype=torch.int64)
        counts[: len(self._counts)] = self._counts
        self._counts = reduce_(counts)

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Velocity at `x` [B, ...] and `t`, 0-d or [B] in [0, 1] -> [B, ...], in float32 or wider.

        Times beyond 1 - 1e-4 are taken as 1 - 1e-4. `labels` [B] restrict each row to the images of its class.
        """
        if tuple(x.shape[1:]) != self.sample_shape:
            raise KineticError(f"samples have shape {tuple(x.shape[1:])}, the training set {self.sample_shape}")
        if x.requires_grad:
            raise KineticError(f"the closed-form field is not differentiated: {NO_DENSITY}; follow a network instead")
        labels = together(lambda: self._checked(labels), shared=self.shared)
        state = (x if x.dtype == torch.float64 else x.float()).flatten(1)
        time = t.expand(len(x)).double().clamp(0, LAST).to(x.device)
        alike = t.ndim == 0
        if not self.shared:
            shift = self._mean(state, time, labels, alike).shift()
        else:
            shift = self._shared_shift(state, time, labels)
        velocity = shift / (1 - time)[:, None]
        return velocity.to(state.dtype).view(x.shape)

    def _shared_shift(self, state: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """Find the shift of this process's states [B, D], among those of all."""
        states, times = gather_rows(state), gather_rows(time)
        asked = None if labels is None else torch.cat(gather_rows(labels))
        mean = together(lambda: self._mean(torch.cat(states), torch.cat(times), asked, False))
        mean.merge()
        first = sum(map(len, states[: place()[0]]))
        return mean.shift()[first : first + len(state)]

    def _mean(self, state: Tensor, time: Tensor, labels: Tensor | None, alike: bool) -> PosteriorMean:
        """Sum over the images that are here for states [B, D] at times [B], which are `alike` or may be."""
        device, norms = state.device, self._norms.to(state.device)
        classes = None if labels is None or self._labels is None else self._labels.to(device)
        about: Any = {"largest": self._largest, "total": self._total, "alike": alike}
        with exact_products(device):
            mean = PosteriorMean(state, time, **about)
            self._stream(mean, norms, classes, labels)
            if mean.close and not mean.waits and bool(mean.missed):
                mean = PosteriorMean(state, time, **about, waits=True)
                self._stream(mean, norms, classes, labels)
        return mean

    def _stream(self, mean: PosteriorMean, norms: Tensor, classes: Tensor | None, labels: Tensor | None) -> None:
        """Take in all images; nothing waits for a GPU between them."""
        options: Any = {"device": mean.x.device, "dtype": mean.x.dtype, "scaled": True, "reuse": True}
        for rows, images, _ in self._images.chunks(self.chunk, **options):
            outside = None
            if classes is not None and labels is not None:
                outside = (classes[rows] != labels[:, None]) & (labels[:, None] != self.num_classes)
            mean.add(images, norms[rows], outside)

    def _checked(self, labels: Tensor | None) -> Tensor | None:
        if labels is None:
            return None
        if self._counts is None:
            raise KineticError("labels given, but the training set has none; leave them out")
        counts = torch.cat([self._counts, self._counts.sum()[None]])
        wanted = labels.cpu()
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(counts)):
            raise KineticError(
                f"labels must lie in 0 to {self.num_classes}, which means all, got {wanted.tolist()[:4]}"
            )
        if (counts[wanted] == 0).any():
            raise KineticError(f"class {int(wanted[counts[wanted] == 0][0])} has no image in the training set")
        return labels
