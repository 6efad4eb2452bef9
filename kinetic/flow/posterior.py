"""The mean of a finite training set's images, seen from noisy states: a softmax that is streamed over the images.

Near t = 1 the logits are differences of large numbers times 1/(1-t)², more than float32 can tell apart. So the matrix
product in float32 proposes, and the images whose weights an error would be seen in are computed again, in float64 and
from differences: how many those are follows from the error of the product, and is zero while it does not matter.

On a CPU the pairs to compute again are counted chunk by chunk. A GPU is not asked: a few pairs of each row are computed
again whether they need it or not, and what did not fit is said at the end, for a second pass that waits.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import threshold

from kinetic.ranks import reduce_
from kinetic.tensors import chunks

TOLERANCE = (
    1e-4  # bound on a logit's error, over 1 - t, below which nothing is computed again; errors are a tenth of it
)
NEGLIGIBLE = 16.0  # weights e^-16 of all others together are not worth a second computation
FAINT = -80.0  # smaller weights than e^-80 are 0: below e^-87 they are denormal, and a product of such numbers is slow
DENSE = 16  # recompute a whole chunk once more than one pair in so many asks for it
SLOTS = 4  # pairs of a row and chunk that are computed again where nothing waits
PAIR_ELEMENTS = 2**21  # numbers gathered at a time when pairs are computed again


class PosteriorMean:
    """Running Σ w (xᵢ - x) and Σ w of each row, relative to the largest logit so far; float64 beyond the products."""

    def __init__(
        self, x: Tensor, t: Tensor, *, largest: float, total: int, alike: bool = False, waits: bool | None = None
    ) -> None:
        """Begin for states `x` [B, D] at times `t` float64 [B], all one where they are `alike`.

        The squared norms of the images to come are `largest` at most, and with those of other processes there are
        `total`. What `waits` reads values on the host chunk by chunk: by default, on a CPU.
        """
        self.x, self.t, self.total = x, t, total
        self.scale = 1 / (1 - t).square()
        self.query = (x * (t * self.scale)[:, None]).to(x.dtype)
        self.half = -0.5 * t.square() * self.scale  # times ‖xᵢ‖²
        self.alike = alike or bool((t == t[:1]).all())
        self.own = 0.5 * x.double().square().sum(1) * self.scale  # what a product leaves out of the logit
        self.peak = torch.full_like(t, -torch.inf)
        self.mass = torch.zeros_like(t)
        self.plain = torch.zeros_like(t)  # mass of those whose x is not taken off the moment yet
        self.moment = torch.zeros_like(x, dtype=torch.float64)
        self.error, self.margin = self._margins(largest)
        self.close = bool((self.margin > 0).any())  # whether any row has pairs to compute again
        self.waits = x.device.type == "cpu" if waits is None else waits
        self.missed = torch.zeros((), dtype=torch.bool, device=x.device)  # whether there were more than SLOTS

    def _margins(self, largest: float) -> tuple[Tensor, Tensor]:
        """Bound the error of a logit, and say how far below the largest one an error can still be seen; float64 [B]."""
        size = self.query.double().norm(dim=1) * math.sqrt(largest) - self.half * largest
        error = 2 * torch.finfo(self.x.dtype).eps * size
        seen = 2 * (error / (TOLERANCE * (1 - self.t))).log()
        return error, torch.where(seen > 0, 2 * error + seen.clamp(max=NEGLIGIBLE + math.log(self.total)), -torch.inf)

    def add(self, images: Tensor, norms: Tensor, outside: Tensor | None) -> None:
        """Take in a chunk of images [c, D] with squared norms [c], but not those `outside` [B, c] a row's class."""
        logits = self._products(images, norms)
        if outside is not None:
            logits.masked_fill_(outside, -torch.inf)
        top = logits.amax(1).double() - self.own
        if not self.close:
            self._raise_peak(top)
            self._take_products(logits, images)
            return
        rows, columns, chosen = self._doubtful(logits, top)
        if self.waits and len(rows) * DENSE > logits.numel():
            logits, images, top = self._dense(images, norms, outside)
            rows, columns, chosen = (x[:0] for x in (rows, columns, chosen))
            close = torch.zeros_like(self.margin, dtype=torch.bool)
        else:
            close = self.margin > 0
        exact = self._recomputed(images, rows, columns).masked_fill_(~chosen, -torch.inf)
        logits[rows, columns] = logits[rows, columns].masked_fill_(chosen, -torch.inf)
        self._raise_peak(top.masked_fill(close, -torch.inf).scatter_reduce(0, rows, exact, "amax"))
        self._take_products(logits, images)
        self._take_pairs(images, rows, columns, (exact - self._level()[rows]).exp())

    def merge(self) -> None:
        """Add what all processes have found, each of its own images, for the same states."""
        peak = reduce_(self.peak.clone(), "max")
        self._shrink_to(peak)
        for part in (self.mass, self.plain, self.moment):
            reduce_(part)

    def shift(self) -> Tensor:
        """Σ w (xᵢ - x) / Σ w, float64 [B, D]."""
        return (self.moment - self.plain[:, None] * self.x) / self.mass[:, None]

    def _products(self, images: Tensor, norms: Tensor) -> Tensor:
        """Logits [B, c] up to a constant of the row."""
        half = self.half[:1] if self.alike else self.half[:, None]
        return torch.addmm((half * norms).to(self.x.dtype), self.query, images.T)

    def _take_products(self, logits: Tensor, images: Tensor) -> None:
        """Add images by their logits [B, c], which are overwritten."""
        logits.sub_((self._level() + self.own).to(logits.dtype)[:, None])
        weights = threshold(logits, FAINT, -torch.inf, inplace=True).exp_()
        mass = weights.sum(1, dtype=torch.float64)
        self.mass += mass
        self.plain += mass
        self.moment += weights @ images

    def _doubtful(self, logits: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs whose logits have to be computed again: rows and columns [P], and whether each of them has to [P]."""
        floor = torch.maximum(self.peak, top) + self.own - self.margin
        floor = torch.where(self.margin > 0, floor, torch.inf).nan_to_num(neginf=torch.finfo(logits.dtype).min)
        near = logits > floor.to(logits.dtype)[:, None]
        if self.waits:
            rows, columns = near.nonzero(as_tuple=True)
            return rows, columns, torch.ones_like(rows, dtype=torch.bool)
        columns = logits.topk(min(SLOTS, logits.shape[1]), dim=1).indices
        chosen = near.gather(1, columns)
        self.missed |= (near.sum(1) > chosen.sum(1)).any()
        rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(columns)
        return rows.flatten(), columns.flatten(), chosen.flatten()

    def _recomputed(self, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Exact logits [P] of the pairs, float64, from differences."""
        exact = self.t.new_empty(len(rows))
        for part in chunks(len(rows), max(1, PAIR_ELEMENTS // self.x.shape[1])):
            t = self.t[rows[part], None]
            difference = self.x[rows[part]].double().addcmul_(t, images[columns[part]].double(), value=-1)
            exact[part] = -0.5 * self.scale[rows[part]] * difference.square_().sum(1)
        return exact

    def _take_pairs(self, images: Tensor, rows: Tensor, columns: Tensor, weights: Tensor) -> None:
        """Add the recomputed pairs, with weights float64 [P], from differences too."""
        self.mass.index_add_(0, rows, weights)
        for part in chunks(len(rows), max(1, PAIR_ELEMENTS // self.x.shape[1])):
            difference = images[columns[part]].double().sub_(self.x[rows[part]])
            self.moment.index_add_(0, rows[part], difference.mul_(weights[part, None]))

    def _dense(self, images: Tensor, norms: Tensor, outside: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The chunk in float64 throughout, for sets where many images compete and hence are small or alike."""
        wide = images.double()
        query = self.x.double() * (self.t * self.scale)[:, None]
        logits = torch.addmm(self.half[:, None] * norms, query, wide.T)
        if outside is not None:
            logits.masked_fill_(outside, -torch.inf)
        return logits, wide, logits.amax(1) - self.own

    def _raise_peak(self, top: Tensor) -> None:
        peak = torch.maximum(self.peak, top)
        if not self.waits or (peak > self.peak).any():
            self._shrink_to(peak)

    def _shrink_to(self, peak: Tensor) -> None:
        """Bring the sums to another, higher maximum."""
        shrink = (self.peak - peak.nan_to_num(neginf=0.0)).exp()
        self.peak = peak
        self.mass *= shrink
        self.plain *= shrink
        self.moment *= shrink[:, None]

    def _level(self) -> Tensor:
        """The largest logit so far, 0 for a row that saw none."""
        return self.peak.nan_to_num(neginf=0.0)
