"""A set of training images prepared for exact comparison: which are distinct, how large, where they come from."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSet, ImageSource
from kinetic.ranks import gather_notes, gather_rows, place, together
from kinetic.tensors import Scratch, chunks

FIRST = 4096  # images that the center is the mean of, at most
BUDGET = 96 * 2**20  # bytes of one temporary
FINE = 2**20  # of one in float64, which is passed over several times
DIGEST = 16  # bytes


@dataclass(frozen=True)
class ReferenceIndex:
    """Training images prepared for `nearest`, with what is known about each row but, if streamed, not the rows.

    Rows with one id are views of one image. Images that have a view in common, identical ones above all, form a group
    and count as one. With `flip`, the mirror image (last axis) of every image is a view of it, without being stored.

    If `shared`, the rows are this process's share of a set that is spread over all of them; groups are those of all.
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
    distinct: int  # number of distinct images, in all processes if shared
    duplicates: int  # number of images (ids) that repeat another one
    shared: bool = False

    @classmethod
    def build(
        cls,
        source: ImageSource,
        *,
        flip: bool = False,
        device: torch.device | str | None = None,
        cache: bool = False,
        shared: bool = False,
    ) -> "ReferenceIndex":
        """Read `source`, see `ImageSet.of`, once. With `cache` it is kept on the device; a tensor always is.

        With `shared`, what all processes call together, each one's source is its share, and an image is in one share.
        Raises ValueError for a source that is empty, can be read only once, holds non-finite values or mixed shapes.
        """
        device = torch.device(device or (source.device if isinstance(source, Tensor) else "cpu"))
        if device.type == "mps":  # no float64 there
            device = torch.device("cpu")
        images = ImageSet.of(source, "the reference")
        if cache or isinstance(source, Tensor):
            images = images.kept(device)
        shared = shared and place()[1] > 1
        survey = together(lambda: _survey(images, flip, device), shared=shared)
        return _index(survey, images, flip=flip, device=device, shared=shared)

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, images [n, D] in their own dtype, on the device), at most `size` rows at a time.

        A block may overwrite the one before.
        """
        size = size or max(64, min(8192, BUDGET // (4 * max(self.shape.numel(), 1))))
        for rows, images, _ in self.source.chunks(size, device=self.device, reuse=True):
            yield rows.start, images

    def images(self, ids: Tensor) -> Tensor:
        """Fetch images by id, [n] -> [n, ...] (the first view of each), for a gallery.

        If shared, all processes call this with the same ids.
        """
        if not self.shared:
            return self._images(ids)
        numbers = ids.flatten().cpu()
        here = numbers[torch.isin(numbers, self.ids.cpu())]
        own = together(lambda: self._images(here).cpu())
        found: dict[int, Tensor] = {}
        for theirs, images in zip(gather_rows(here), gather_rows(own), strict=True):
            found = dict(zip(theirs.tolist(), images, strict=True)) | found
        if absent := set(numbers.tolist()) - set(found):
            raise KineticError(f"no reference image has the id {min(absent)}")
        return torch.stack([found[number] for number in numbers.tolist()]).to(self.device)

    def _images(self, ids: Tensor) -> Tensor:
        wanted, order = ids.to(self.device).flatten(), self.ids.argsort(stable=True)
        spot = torch.searchsorted(self.ids[order], wanted).clamp_(max=len(order) - 1)
        rows = order[spot]
        if not bool((unknown := self.ids[rows] != wanted).logical_not().all()):
            raise KineticError(f"no reference image has the id {int(wanted[unknown][0])}")
        found: Tensor | None = None
        for where, images in self.source.gathered(rows, len(rows), device=self.device):
            found = images.new_empty(len(rows), images.shape[1]) if found is None else found
            found[where] = images
        if found is None:
            found = torch.empty(0, self.shape.numel(), device=self.device)
        return found.unflatten(1, self.shape)


def mirror(flat: Tensor, shape: torch.Size) -> Tensor:
    """Flip flattened images [N, D] of `shape` along their last axis."""
    return flat.unflatten(1, shape).flip(-1).flatten(1)


def wide(x: Tensor) -> Tensor:
    """Convert to float32, or leave float64."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass
class _Survey:
    """What one pass over a source tells of it."""

    ids: Tensor  # int64 [rows]
    norms: Tensor  # ½‖r - center‖², float64 [rows]
    keys: NDArray[np.uint64]  # of what the rows hold, [rows, 2]
    center: Tensor
    largest: float
    low: float
    high: float


def _index(survey: _Survey, source: ImageSet, *, flip: bool, device: torch.device, shared: bool) -> ReferenceIndex:
    """Find which rows are the same, in all processes if shared."""
    own, keys, ids = len(survey.ids), survey.keys, survey.ids
    first, ranges = 0, [(survey.low, survey.high)]
    if shared:
        lengths = gather_notes((own, survey.low, survey.high))
        first = sum(length for length, _, _ in lengths[: place()[0]])
        ranges = [(low, high) for _, low, high in lengths]
        keys = torch.cat(gather_rows(torch.tensor(keys.view(np.int64)))).numpy().view(np.uint64)
        ids = torch.cat(gather_rows(ids))
    groups, repeated = _group(ids.numpy(), keys)
    mine = slice(first, first + own)
    half_norms = torch.where(torch.from_numpy(repeated[mine]), math.inf, survey.norms).float()
    distinct = int(groups.max()) + 1
    return ReferenceIndex(
        source=source,
        shape=source.shape,
        flip=flip,
        device=device,
        ids=survey.ids.to(device),
        groups=torch.from_numpy(groups[mine]).to(device),
        half_norms=half_norms.to(device),
        center=survey.center,
        largest=survey.largest,
        low=min(low for low, _ in ranges),
        high=max(high for _, high in ranges),
        distinct=distinct,
        duplicates=len(ids.unique()) - distinct,
        shared=shared,
    )


def _survey(source: ImageSet, flip: bool, device: torch.device) -> _Survey:
    """Read the source once for everything `ReferenceIndex` knows about it."""
    center, low, high, largest = torch.empty(0), math.inf, -math.inf, 0.0
    norms: list[float] = []  # not tensors, which between the chunks would fragment the heap
    ids: list[int] = []
    keys = bytearray()
    narrow, double = Scratch(device), Scratch(device)
    for _, images, numbers in source.chunks(FIRST, device=device, reuse=True):
        if not ids:
            center = images[:FIRST].float().mean(0)
            origin = center.double()
        for part in chunks(len(images), max(1, FINE // (8 * max(images.shape[1], 1)))):
            block = narrow.wide(images[part])
            least, most = (float(value) for value in block.aminmax())  # NaN wherever there is one
            if not (math.isfinite(least) and math.isfinite(most)):
                bad = ~block.isfinite().all(1).cpu()
                raise KineticError(f"reference image {int(numbers[part][bad][0])} is not finite")
            low, high = min(low, least), max(high, most)
            offset = double.empty(block.shape, torch.float64).copy_(block).sub_(origin)
            norms += offset.square_().sum(1).div_(2).tolist()
            largest = max(largest, float(torch.linalg.vector_norm(block, dim=1).max()))
            keys += _keys(images[part], source.shape, flip)
        ids += numbers.tolist()
    found = np.frombuffer(bytes(keys), np.uint64).reshape(-1, 2)
    return _Survey(torch.tensor(ids), torch.tensor(norms, dtype=torch.float64), found, center, largest, low, high)


def _group(ids: NDArray[np.int64], keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Join rows that share an id or a content: group of each row, and whether its content occurred before."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of one content the first row comes first
    new = np.ones(len(order), bool)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(1)
    content = np.empty(len(order), np.int64)
    content[order] = np.cumsum(new) - 1
    _, image = np.unique(ids, return_inverse=True)
    size = content.max() + image.max() + 2
    edges = coo_array((np.ones(len(ids), np.int8), (content, content.max() + 1 + image)), shape=(size, size))
    labels = connected_components(edges, directed=False)[1][content]
    repeated = np.ones(len(ids), bool)
    repeated[order[new]] = False
    return np.unique(labels, return_inverse=True)[1].astype(np.int64), repeated


def _keys(block: Tensor, shape: torch.Size, flip: bool) -> bytes:
    """Hash each row's values; with `flip`, an image and its mirror image have one key.

    Half precision is hashed as it is, so that a set is of one kind, or images of two kinds are never the same.
    """
    views = [block, mirror(block, shape)] if flip else [block]
    arrays = [_bytes_of(view) for view in views]
    digests = (
        min(hashlib.blake2b(row, digest_size=DIGEST).digest() for row in rows) for rows in zip(*arrays, strict=True)
    )
    return b"".join(digests)


def _bytes_of(view: Tensor) -> NDArray[np.uint8]:
    """The values of rows as bytes [n, bytes], zeros without a sign."""
    kept = view if view.dtype in (torch.float16, torch.bfloat16) else wide(view)
    return (kept + 0).contiguous().cpu().view(torch.uint8).numpy()  # + 0 turns -0 into 0
