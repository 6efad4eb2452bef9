"""Exact nearest training images of many queries, in bounded memory.

One pass over the reference: float32 matrix products rank all images and keep a few candidates per query. These alone
are read again, and their distances recomputed in float64 from differences, which stays right where ‖q‖² + ‖r‖² - 2 q·r
cancels, that is for copies. A bound on the rounding error of the products decides for each query whether an image
outside the candidates could be nearer; where it could, the query is searched again with eight times as many.

Images in float16 or bfloat16 are turned to float32, a piece that fits a cache at a time, and never rounded. What is
spread over processes is searched by all of them for the queries of all, and the nearest of each are merged.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSource
from kinetic.metrics.reference import ReferenceIndex, mirror, wide
from kinetic.ranks import gather_rows, place, together
from kinetic.tensors import Scratch, chunks, exact_products

__all__ = ["NeighborResult", "ReferenceIndex", "nearest"]

_STRIDE = 32  # columns that share one minimum when candidates are picked
_CACHE = 4 * 2**20  # bytes of a temporary that is passed over several times
_WIDENED = 2**24  # bytes of a piece of the reference in float32, where it is kept in half precision
_LARGEST = 1e15  # values beyond it are as good as not finite, their squares overflow
_PAIRS = 2**22  # candidates held at a time
_RESOLUTION = 1e-6  # relative difference of squared distances below which two images count as equally near


@dataclass(frozen=True)
class NeighborResult:
    """The k nearest distinct images of every query; NaN and -1 where a query is not finite or beyond ±1e15."""

    distances: Tensor  # [N, k] float64, Euclidean, ascending
    indices: Tensor  # [N, k] int64, ids of the reference


def nearest(
    queries: Tensor,
    reference: ReferenceIndex | ImageSource,
    *,
    k: int = 2,
    flip: bool = False,
    candidates: int = 8,
    chunk: int | None = None,
    block: int = 1024,
) -> NeighborResult:
    """Find the `k` nearest distinct reference images of `queries` [N, ...], exactly, by Euclidean distance in pixels.

    `candidates`, `chunk` (reference rows per product) and `block` (queries per product) change speed and memory, not
    the result; of images that are equally near, to 1e-6 of the squared distance, any may be found. `flip` is for a
    reference that is not an index yet. With a shared index all processes call this, each with queries of its own.
    """
    if not isinstance(reference, ReferenceIndex):
        reference = ReferenceIndex.build(reference, flip=flip, device=queries.device)
    elif flip and not reference.flip:
        raise KineticError("flip=True with an index built without flips; build it with ReferenceIndex.build(flip=True)")
    if not 1 <= k <= reference.distinct:
        raise KineticError(f"k={k} nearest images need 1 <= k <= {reference.distinct}, the distinct reference images")
    index, count = reference, max(candidates, k)
    if not index.shared:
        distances, indices, _ = _nearest(_matching(queries, index), index, k, count, chunk, block)
        return NeighborResult(distances.to(queries.device), indices.to(queries.device))
    asked = gather_rows(together(lambda: _matching(queries, index)))
    found = together(lambda: _nearest(torch.cat(asked), index, k, count, chunk, block))
    mine = asked[: place()[0]]
    distances, indices = _merged(*found, k=k)
    rows = slice(sum(map(len, mine)), sum(map(len, mine)) + len(queries))
    return NeighborResult(distances[rows].to(queries.device), indices[rows].to(queries.device))


def _nearest(
    flat: Tensor, index: ReferenceIndex, k: int, count: int, chunk: int | None, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Search for flat queries [Q, D] among the rows that are here: distances, ids and groups [Q, k]."""
    distances = torch.full((len(flat), k), math.nan, dtype=torch.float64, device=index.device)
    indices = torch.full((len(flat), k), -1, device=index.device)
    groups = torch.full((len(flat), k), -1, device=index.device)
    pending = (torch.linalg.vector_norm(flat, math.inf, dim=1) < _LARGEST).nonzero().flatten()
    with torch.no_grad(), exact_products(index.device):
        while len(pending):
            count = min(count, len(index.ids))
            failed = []
            for rows in pending.split(max(1, _PAIRS // count)):
                found, places, proven = _search(flat[rows], index, k, count, chunk, block)
                distances[rows], indices[rows], groups[rows] = found, index.ids[places], index.groups[places]
                failed.append(rows[~proven])
            pending, count = torch.cat(failed), count * 8
    return distances, indices, groups


def _merged(distances: Tensor, indices: Tensor, groups: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    """Merge what the processes found for the same queries [Q, k]: the nearest of different groups."""
    near, ids, kinds = (
        torch.cat(gather_rows(x[None].contiguous())).movedim(0, 1).flatten(1) for x in (distances, indices, groups)
    )
    spot = _smallest_groups(near, kinds, k)[1]
    return near.gather(1, spot), ids.gather(1, spot)


def _search(
    flat: Tensor, index: ReferenceIndex, k: int, count: int, chunk: int | None, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Search among `count` candidates a view: distances and rows [Q, k], and whether a query is proven right [Q]."""
    views = torch.stack([flat, mirror(flat, index.shape)], 1).flatten(0, 1) if index.flip else flat
    centred = (views - index.center).float()
    scores, rows = _candidates(centred, index, count, chunk, block)
    rows, order = rows.sort(1)  # of images at one distance the first is found, whatever the chunks
    scores = scores.gather(1, order)
    # With s = ½‖r - c‖² - (q - c)·r the squared distance is 2 s + ‖q‖² - ‖c‖².
    offset = _squares(views) - _squares(index.center[None])
    error = 2 * _rounding(centred, index)
    approx = (2 * scores.double() + offset[:, None]).view(len(flat), -1)
    error = error.view(len(flat), -1).amax(1)
    groups = index.groups[rows].view(len(flat), -1)
    bar = _smallest_groups(approx, groups, k)[0][:, -1] + 2 * error
    exact = _recompute(views, index, rows, (approx <= bar[:, None]).view_as(rows) & scores.isfinite())
    squared, where = _smallest_groups(exact.view_as(groups), groups, k)
    if count >= len(index.ids):
        proven = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
    else:  # every image that is no candidate scores at least as high as the worst candidate
        outside = (2 * scores.double().amax(1) + offset).view(len(flat), -1).amin(1) - error
        proven = squared[:, -1] * (1 - _RESOLUTION) <= outside
    return squared.sqrt(), rows.view_as(groups).gather(1, where), proven


def _candidates(
    centred: Tensor, index: ReferenceIndex, count: int, chunk: int | None, block: int
) -> tuple[Tensor, Tensor]:
    """Pick the `count` lowest scores ½‖r - c‖² - (q - c)·r of each query [Q, D]: scores and rows [Q, count]."""
    best = torch.full((len(centred), count), math.inf, device=centred.device)
    rows = torch.zeros(len(centred), count, dtype=torch.int64, device=centred.device)
    products, widened = Scratch(centred.device), Scratch(centred.device)
    for start, reference in index.blocks(chunk):
        norms = index.half_norms[start : start + len(reference)]
        step = len(reference) if reference.dtype == torch.float32 else max(1, _WIDENED // (4 * reference.shape[1]))
        for part in chunks(len(centred), block):
            scores = products.empty((part.stop - part.start, len(reference)))
            for piece in chunks(len(reference), step):
                columns = widened.single(reference[piece]).T
                torch.addmm(norms[piece], centred[part], columns, alpha=-1, out=scores[:, piece])
            low, column = _lowest(scores, min(count, len(reference)))
            merged, place = torch.cat([best[part], low], 1).topk(count, largest=False, sorted=False)
            best[part], rows[part] = merged, torch.cat([rows[part], column + start], 1).gather(1, place)
    return best, rows


def _lowest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the `count` lowest of each row and their columns, by the minima of interleaved groups of columns.

    The `count` lowest values lie in the `count` groups with the lowest minima, so only those are sorted.
    """
    width = scores.shape[1] // _STRIDE
    if width < 2 * count:
        low = scores.topk(count, largest=False, sorted=False)
        return low.values, low.indices
    body = width * _STRIDE
    minima = scores[:, :body].unflatten(1, (_STRIDE, width)).amin(1)
    group = minima.topk(count, largest=False, sorted=False).indices
    columns = (group[:, None] + torch.arange(0, body, width, device=scores.device)[:, None]).flatten(1)
    tail = torch.arange(body, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat([columns, tail], 1)
    low = scores.gather(1, columns).topk(count, largest=False, sorted=False)
    return low.values, columns.gather(1, low.indices)


def _rounding(centred: Tensor, index: ReferenceIndex) -> Tensor:
    """Bound the error of each query's scores [Q], float64.

    A product of length D in float32 is off by at most D u ‖q‖‖r‖, and by more than 8 √D u ‖q‖‖r‖ with a probability
    below 1e-13 (Higham and Mary 2019, rounding errors as independent variables); 8 u more for inputs, centre and norms.
    """
    size = centred.shape[1]
    unit = (min(size, 8 * math.sqrt(size)) + 8) * 2.0**-24
    finite = index.half_norms[index.half_norms.isfinite()]
    return unit * (torch.linalg.vector_norm(centred, dim=1).double() * index.largest + float(finite.max()))


def _recompute(views: Tensor, index: ReferenceIndex, rows: Tensor, active: Tensor) -> Tensor:
    """Squared distances [Q, count] float64 from differences, infinite where not `active`."""
    squared = torch.full(rows.shape, math.inf, dtype=torch.float64, device=rows.device)
    query, slot = active.nonzero(as_tuple=True)
    pairs = max(1, _CACHE // (8 * views.shape[1]))
    for spot, images in index.source.gathered(rows[query, slot], pairs, device=index.device):
        difference = images.double().sub_(views[query[spot]])
        squared[query[spot], slot[spot]] = difference.square_().sum(1)
    return squared


def _squares(x: Tensor) -> Tensor:
    """Squared norm of each row, [N, D] -> [N], summed in float64 without a wide copy of `x`."""
    return torch.cat([part.double().square().sum(1) for part in x.split(max(1, _CACHE // (8 * x.shape[1])))])


def _smallest_groups(values: Tensor, groups: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the `k` lowest values of each row that belong to different groups, with their places; infinite if none."""
    values, lowest, places = values.clone(), [], []
    for _ in range(k):
        low, place = values.min(1, keepdim=True)
        values.masked_fill_(groups == groups.gather(1, place), math.inf)
        lowest.append(low)
        places.append(place)
    return torch.cat(lowest, 1), torch.cat(places, 1)


def _matching(queries: Tensor, index: ReferenceIndex) -> Tensor:
    """Flatten queries that have the reference's shape, or are flat already, to [N, D] on the index's device."""
    if queries.shape[1:] not in (index.shape, torch.Size([index.shape.numel()])):
        got, want = tuple(queries.shape[1:]), tuple(index.shape)
        raise KineticError(f"queries of shape {got} do not match the reference images of shape {want}")
    return wide(queries.detach().flatten(1).to(index.device))
