"""A set of training images prepared for exact comparison: which are distinct, how large, where they come from."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.tensors import chunks

# A tensor [N, ...], or a re-iterable of image tensors or of pairs (images [n, ...], ids [n] int64).
Source = Tensor | Iterable[Tensor] | Iterable[tuple[Tensor, Tensor]]

BUDGET = 96 * 2**20  # bytes of one temporary


@dataclass(frozen=True)
class ReferenceIndex:
    """Training images prepared for `nearest`, with what is known about each row but, if streamed, not the rows.

    Rows with one id are views of one image. Images that have a view in common, identical ones above all, form a group
    and count as one. With `flip`, the mirror image (last axis) of every image is a view of it, without being stored.
    """

    source: Source
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
        cls, source: Source, *, flip: bool = False, device: torch.device | str | None = None, cache: bool = False
    ) -> "ReferenceIndex":
        """Read `source` once. With `cache` a stream is kept on the device; a tensor is always kept there.

        Raises ValueError for a source that is empty, can be read only once, holds non-finite values or mixed shapes.
        """
        if isinstance(source, Iterator):
            raise KineticError(
                f"the reference must be re-iterable, got a one-shot {type(source).__name__}; pass a list"
            )
        device = torch.device(device or (source.device if isinstance(source, Tensor) else "cpu"))
        if device.type == "mps":  # no float64 there
            device = torch.device("cpu")
        if isinstance(source, Tensor):
            source = source.to(device)
        elif cache:
            source = [(images.to(device), ids) for images, ids in _read(source)]
        return cls(source=source, flip=flip, device=device, **_survey(source, flip, device))

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, images [n, D] in their own dtype, on the device), at most `size` rows at a time."""
        size = size or max(64, min(8192, BUDGET // (4 * max(self.shape.numel(), 1))))
        start = 0
        for images, _ in _read(self.source):
            for rows in chunks(len(images), size):
                yield start, images[rows].to(self.device).flatten(1)
                start += rows.stop - rows.start
        if start != len(self.ids):
            raise KineticError(f"the reference changed: it had {len(self.ids)} images when indexed and has {start} now")

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


def _survey(source: Source, flip: bool, device: torch.device) -> dict[str, Any]:
    """Read the source once for everything `ReferenceIndex` knows about it."""
    center, shape, low, high, largest = torch.empty(0), torch.Size(), math.inf, -math.inf, 0.0
    norms: list[Tensor] = []
    ids: list[Tensor] = []
    keys: list[str] = []
    for images, numbers in _read(source):
        if not ids:
            shape, center = images.shape[1:], images[:4096].to(device).flatten(1).float().mean(0)
        if images.shape[1:] != shape:
            raise KineticError(f"reference images differ in shape: {tuple(shape)} and {tuple(images.shape[1:])}")
        for part in chunks(len(images), max(1, BUDGET // (64 * max(shape.numel(), 1)))):
            block = images[part].to(device).flatten(1)
            least, most = (float(value) for value in block.aminmax())  # NaN wherever there is one
            if not (math.isfinite(least) and math.isfinite(most)):
                bad = ~block.isfinite().all(1).cpu()
                raise KineticError(f"reference image {int(numbers[part][bad][0])} is not finite")
            low, high = min(low, least), max(high, most)
            norms.append((block.double() - center.double()).square().sum(1).div(2).float())
            largest = max(largest, float(torch.linalg.vector_norm(wide(block), dim=1).max()))
            keys.extend(_keys(block, shape, flip))
        ids.append(numbers)
    if not ids:
        raise KineticError("the reference holds no images")
    numbers = torch.cat(ids)
    groups, repeated = _group(numbers.numpy(), np.array(keys))
    half_norms = torch.cat(norms).masked_fill_(torch.from_numpy(repeated).to(device), math.inf)
    members = {"ids": numbers.to(device), "groups": torch.from_numpy(groups).to(device), "half_norms": half_norms}
    return {"shape": shape, "center": center, "largest": largest, "low": low, "high": high, **members}


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


def _read(source: Source) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images [n, ...], ids [n] on the CPU); rows are numbered in order where the source has no ids."""
    start = 0
    for item in [source] if isinstance(source, Tensor) else source:
        images, ids = (item, torch.arange(start, start + len(item))) if isinstance(item, Tensor) else item
        if len(images) != len(ids):
            raise KineticError(f"the reference yields {len(images)} images with {len(ids)} ids")
        start += len(images)
        if len(images):
            yield images, ids.cpu()
