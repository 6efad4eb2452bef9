"""Empirical flow matching: the optimal velocity of the linear path for a finite training set, in closed form.

    v(x, t) = Σᵢ wᵢ (xᵢ - x) / (1 - t),    w = softmaxᵢ( -‖x - t xᵢ‖² / (2 (1 - t)²) )

Following it copies training images: it is the memorising limit that trained networks are compared with. The softmax is
streamed over the training set with a running maximum, so memory is O(batch × chunk) whatever the size of the set.

Near t = 1 the logits are differences of large numbers times 1/(1-t)², more than float32 can tell apart. So the matrix
product in float32 proposes, and the images whose weights an error would be seen in are computed again, in float64 and
from differences: how many those are follows from the error of the product, and is zero while it does not matter.
"""

import math

import numpy as np
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSet, ImageSource
from kinetic.tensors import chunks, exact_products

LAST = 1 - 1e-4  # the field is singular at t = 1; later times are taken as this one
TOLERANCE = (
    1e-4  # bound on the error of a logit, over 1 - t, below which nothing is computed again; errors are a tenth of it
)
NEGLIGIBLE = 16.0  # weights e^-16 of all others together are not worth a second computation
DENSE = 16  # recompute a whole chunk once more than one pair in so many asks for it
NO_DENSITY = "it flows onto its training images, so that its samples have no density"
PAIR_ELEMENTS = 2**21  # numbers gathered at a time when pairs are computed again


class EmpiricalVelocity:
    """The closed-form field of a training set; it drops in wherever a network `net(x, t, labels)` does."""

    def __init__(
        self,
        images: ImageSource,
        labels: "Tensor | np.ndarray | None" = None,
        *,
        num_classes: int | None = None,
        chunk: int = 4096,
    ) -> None:
        """Prepare the field of `images` [N, ...]: a tensor on any device, or any other source of an `ImageSet`, which
        is read at every call. Floats are taken as they are; uint8 as pixels, to [-1, 1].

        With `labels` int64 [N] in [0, num_classes) a call may ask for classes, where `num_classes` (by default one more
        than the largest label) means all. `chunk` images are looked at together.
        """
        if chunk < 1:
            raise KineticError(f"chunk must be at least 1, got {chunk}")
        self.chunk = chunk
        self._images = ImageSet.of(images, "the training set")
        self._labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64).cpu()
        self._norms = self._survey()
        self.sample_shape = tuple(self._images.shape)
        self.num_classes, self._counts = self._classes(num_classes)

    def _survey(self) -> Tensor:
        """Squared norm of every image, float64 [N]."""
        numbers: list[float] = []  # not tensors, which between the chunks would fragment the heap
        for _, images, _ in self._images.chunks(256, scaled=True):
            numbers += images.double().square().sum(1).tolist()
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

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Velocity at `x` [B, ...] and `t`, 0-d or [B] in [0, 1] -> [B, ...], in float32 or wider.

        Times beyond 1 - 1e-4 are taken as 1 - 1e-4. `labels` [B] restrict each row to the images of its class.
        """
        if tuple(x.shape[1:]) != self.sample_shape:
            raise KineticError(f"samples have shape {tuple(x.shape[1:])}, the training set {self.sample_shape}")
        if x.requires_grad:
            raise KineticError(f"the closed-form field is not differentiated: {NO_DENSITY}; follow a network instead")
        labels = self._checked(labels)
        state = (x if x.dtype == torch.float64 else x.float()).flatten(1)
        time = t.expand(len(x)).double().clamp(0, LAST).to(x.device)
        with exact_products(x.device):
            mean = _Softmax(state, time, self._norms)
            for rows, images, _ in self._images.chunks(self.chunk, device=x.device, dtype=state.dtype, scaled=True):
                outside = None
                if labels is not None and self._labels is not None:
                    classes = self._labels[rows].to(x.device)
                    outside = (classes != labels[:, None]) & (labels[:, None] != self.num_classes)
                mean.add(images, self._norms[rows].to(x.device), outside)
        velocity = mean.shift() / (1 - time)[:, None]
        return velocity.to(state.dtype).view(x.shape)

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


class _Softmax:
    """Running Σ w (xᵢ - x) and Σ w of each row, relative to the largest logit so far; float64 beyond the products."""

    def __init__(self, x: Tensor, t: Tensor, norms: Tensor) -> None:
        self.x, self.t = x, t  # [B, D], and float64 [B]
        self.scale = 1 / (1 - t).square()
        self.query = (x * (t * self.scale)[:, None]).to(x.dtype)
        self.half = -0.5 * t.square() * self.scale  # times ‖xᵢ‖²
        self.together = bool((t == t[:1]).all())  # whether all rows are at one time
        self.own = 0.5 * x.double().square().sum(1) * self.scale  # what a product leaves out of the logit
        self.peak = torch.full_like(t, -torch.inf)
        self.mass = torch.zeros_like(t)
        self.moment = torch.zeros_like(x, dtype=torch.float64)
        self.error, self.margin = self._margins(norms)

    def _margins(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the error of a logit, and say how far below the largest one an error can still be seen; float64 [B]."""
        largest = float(norms.max())
        size = self.query.double().norm(dim=1) * math.sqrt(largest) - self.half * largest
        error = 2 * torch.finfo(self.x.dtype).eps * size
        seen = 2 * (error / (TOLERANCE * (1 - self.t))).log()
        return error, torch.where(seen > 0, 2 * error + seen.clamp(max=NEGLIGIBLE + math.log(len(norms))), -torch.inf)

    def add(self, images: Tensor, norms: Tensor, outside: Tensor | None) -> None:
        """Take in a chunk of images [c, D] with squared norms [c], but not those `outside` [B, c] a row's class."""
        logits = self._products(images, norms)
        if outside is not None:
            logits.masked_fill_(outside, -torch.inf)
        top = logits.amax(1).double() - self.own
        pairs = self._doubtful(logits, top)
        if len(pairs) * DENSE > logits.numel():
            logits, images, top, pairs = self._dense(images, norms, outside)
        rows, columns = pairs.unbind(1)
        exact = self._recomputed(images, rows, columns)
        if len(pairs):
            logits[rows, columns] = -torch.inf
            top = torch.where(self.margin > 0, -torch.inf, top).scatter_reduce(0, rows, exact, "amax")
        self._raise_peak(top)
        weights = logits.sub_((self.peak + self.own).nan_to_num(neginf=0.0).to(logits.dtype)[:, None]).exp_()
        mass = weights.sum(1, dtype=torch.float64)
        self.mass += mass
        self.moment += weights @ images
        self.moment -= mass[:, None] * self.x
        self._take_in(images, rows, columns, (exact - self.peak[rows]).exp())

    def _products(self, images: Tensor, norms: Tensor) -> Tensor:
        """Logits [B, c] up to a constant of the row."""
        half = self.half[:1] if self.together else self.half[:, None]
        return torch.addmm((half * norms).to(self.x.dtype), self.query, images.T)

    def _doubtful(self, logits: Tensor, top: Tensor) -> Tensor:
        """Pairs (row, column) [P, 2] whose logits have to be computed again."""
        if not (self.margin > 0).any():
            return torch.empty((0, 2), dtype=torch.int64, device=logits.device)
        floor = torch.maximum(self.peak, top) + self.own - self.margin
        floor = torch.where(self.margin > 0, floor, torch.inf).nan_to_num(neginf=torch.finfo(logits.dtype).min)
        return (logits > floor.to(logits.dtype)[:, None]).nonzero()

    def _recomputed(self, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Exact logits [P] of the pairs, float64, from differences."""
        exact = self.t.new_empty(len(rows))
        for part in chunks(len(rows), max(1, PAIR_ELEMENTS // self.x.shape[1])):
            t = self.t[rows[part], None]
            difference = self.x[rows[part]].double().addcmul_(t, images[columns[part]].double(), value=-1)
            exact[part] = -0.5 * self.scale[rows[part]] * difference.square_().sum(1)
        return exact

    def _take_in(self, images: Tensor, rows: Tensor, columns: Tensor, weights: Tensor) -> None:
        """Add the recomputed pairs, with weights float64 [P], from differences too."""
        self.mass.index_add_(0, rows, weights)
        for part in chunks(len(rows), max(1, PAIR_ELEMENTS // self.x.shape[1])):
            difference = images[columns[part]].double().sub_(self.x[rows[part]])
            self.moment.index_add_(0, rows[part], difference.mul_(weights[part, None]))

    def _dense(self, images: Tensor, norms: Tensor, outside: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The chunk in float64 throughout, for sets where many images compete and hence are small or alike."""
        wide = images.double()
        logits = self._wide_logits(wide, norms)
        if outside is not None:
            logits.masked_fill_(outside, -torch.inf)
        return logits, wide, logits.amax(1) - self.own, torch.empty((0, 2), dtype=torch.int64, device=images.device)

    def _wide_logits(self, wide: Tensor, norms: Tensor) -> Tensor:
        query = self.x.double() * (self.t * self.scale)[:, None]
        return torch.addmm(self.half[:, None] * norms, query, wide.T)

    def _raise_peak(self, top: Tensor) -> None:
        peak = torch.maximum(self.peak, top)
        if (peak > self.peak).any():
            shrink = (self.peak - peak.nan_to_num(neginf=0.0)).exp()
            self.mass *= shrink
            self.moment *= shrink[:, None]
        self.peak = peak

    def shift(self) -> Tensor:
        """Σ w (xᵢ - x) / Σ w, float64 [B, D]."""
        return self.moment / self.mass[:, None]
