"""A set of training images prepared for exact comparison: which are distinct, how large, where they come from."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSet, ImageSource
from kinetic.tensors import chunks

FIRST = 4096  # images that the center is the mean of, at most
BUDGET = 96 * 2**20  # bytes of one temporary


@dataclass(frozen=True)
class ReferenceIndex:
    """Training images prepared for `nearest`, with what is known about each row but, if streamed, not the rows.

    Rows with one id are views of one image. Images that have a view in common, identical ones above all, form a group
    and count as one. With `flip`, the mirror image (last axis) of every image is a view of it, without being stored.
    """

    source: ImageSet  # values as they are: uint8 counts from 0 to 255
    shape: torch.Size  # of one image
    flip: bool
    device: torch.device
    ids: Tensor  # [rows] int64
    groups: Tensor  # [rows] int64
    half_norms: Tensor  # [rows] float32, ½‖r - center‖², infinite for the repetition of an earlier row
    center: Tensor  # [D] float32
    largest: float  # max ‖r‖
    low: float  # smallest value in any image
    high: float

    @property
    def distinct(self) -> int:
        """Number of distinct images."""
        return int(self.groups.max()) + 1

    @property
    def duplicates(self) -> int:
        """Number of images (ids) that repeat another one."""
        return len(self.ids.unique()) - self.distinct

    @classmethod
    def build(
        cls, source: ImageSource, *, flip: bool = False, device: torch.device | str | None = None, cache: bool = False
    ) -> "ReferenceIndex":
        """Read `source`, see `ImageSet.of`, once. With `cache` it is kept on the device; a tensor always is.

        Raises ValueError for a source that is empty, can be read only once, holds non-finite values or mixed shapes.
        """
        device = torch.device(device or (source.device if isinstance(source, Tensor) else "cpu"))
        if device.type == "mps":  # no float64 there
            device = torch.device("cpu")
        images = ImageSet.of(source, "the reference")
        if cache or isinstance(source, Tensor):
            images = images.kept(device)
        return cls(source=images, flip=flip, device=device, **_survey(images, flip, device))

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, images [n, D] in their own dtype, on the device), at most `size` rows at a time."""
        size = size or max(64, min(8192, BUDGET // (4 * max(self.shape.numel(), 1))))
        for rows, images, _ in self.source.chunks(size, device=self.device):
            yield rows.start, images

    def images(self, ids: Tensor) -> Tensor:
        """Fetch images by id, [n] -> [n, ...] (the first view of each), for a gallery."""
        wanted, order = ids.to(self.device).flatten(), self.ids.argsort(stable=True)
        place = torch.searchsorted(self.ids[order], wanted).clamp_(max=len(order) - 1)
        rows = order[place]
        if not bool((unknown := self.ids[rows] != wanted).logical_not().all()):
            raise KineticError(f"no reference image has the id {int(wanted[unknown][0])}")
        found: Tensor | None = None
        for start, block in self.blocks():
            found = block.new_empty(len(rows), block.shape[1]) if found is None else found
            here = (rows >= start) & (rows < start + len(block))
            found[here] = block[rows[here] - start]
        assert found is not None  # `build` refuses an empty source
        return found.unflatten(1, self.shape)


def mirror(flat: Tensor, shape: torch.Size) -> Tensor:
    """Flip flattened images [N, D] of `shape` along their last axis."""
    return flat.unflatten(1, shape).flip(-1).flatten(1)


def wide(x: Tensor) -> Tensor:
    """Convert to float32, or leave float64."""
    return x if x.dtype == torch.float64 else x.float()


def _survey(source: ImageSet, flip: bool, device: torch.device) -> dict[str, Any]:
    """Read the source once for everything `ReferenceIndex` knows about it."""
    center, low, high, largest = torch.empty(0), math.inf, -math.inf, 0.0
    norms: list[float] = []  # not tensors, which between the chunks would fragment the heap
    ids: list[int] = []
    keys: list[str] = []
    for _, images, numbers in source.chunks(FIRST, device=device):
        if not ids:
            center = images.float().mean(0)
        for part in chunks(len(images), max(1, BUDGET // (64 * max(images.shape[1], 1)))):
            block = images[part]
            least, most = (float(value) for value in block.aminmax())  # NaN wherever there is one
            if not (math.isfinite(least) and math.isfinite(most)):
                bad = ~block.isfinite().all(1).cpu()
                raise KineticError(f"reference image {int(numbers[part][bad][0])} is not finite")
            low, high = min(low, least), max(high, most)
            norms += (block.double() - center.double()).square().sum(1).div(2).tolist()
            largest = max(largest, float(torch.linalg.vector_norm(wide(block), dim=1).max()))
            keys.extend(_keys(block, source.shape, flip))
        ids += numbers.tolist()
    numbers = torch.tensor(ids)
    groups, repeated = _group(numbers.numpy(), np.array(keys))
    half_norms = torch.from_numpy(np.where(repeated, math.inf, norms)).float().to(device)
    members = {"ids": numbers.to(device), "groups": torch.from_numpy(groups).to(device), "half_norms": half_norms}
    return {"shape": source.shape, "center": center, "largest": largest, "low": low, "high": high, **members}


def _group(ids: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join rows that share an id or a content: group of each row, and whether its content occurred before."""
    _, first, content = np.unique(keys, return_index=True, return_inverse=True)
    _, image = np.unique(ids, return_inverse=True)
    size = content.max() + image.max() + 2
    edges = coo_array((np.ones(len(ids), np.int8), (content, content.max() + 1 + image)), shape=(size, size))
    labels = connected_components(edges, directed=False)[1][content]
    repeated = np.ones(len(ids), bool)
    repeated[first] = False
    return np.unique(labels, return_inverse=True)[1].astype(np.int64), repeated


def _keys(block: Tensor, shape: torch.Size, flip: bool) -> list[str]:
    """Hash each row's values; with `flip`, an image and its mirror image have one key."""
    views = [block, mirror(block, shape)] if flip else [block]
    arrays = [wide(view + 0).contiguous().cpu().numpy() for view in views]  # + 0 turns -0 into 0
    return [min(hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows) for rows in zip(*arrays, strict=True)]
