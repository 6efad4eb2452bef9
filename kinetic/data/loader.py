"""Loaders whose position is one integer, so that a run continues where it stopped."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kinetic.data.pools import BatchOrder, Pool, to_float

Batch = dict[str, Any]  # {"x": float32 [B, ...] in [-1, 1], "labels": int64 [B] or None, "ids": list[str]}


class TrainLoader:
    """Yield this rank's training batches; `batches`, how many it has delivered since training began, is its state.

    An iteration goes to the end of the epoch that the position lies in. Lightning saves and restores the position
    with a checkpoint. Every rank has the same length.
    """

    def __init__(self, pool: Pool, plan: BatchOrder, *, flip: bool = False, length: int | None = None) -> None:
        """Serve `plan` from `pool`; `length` is what `len` says where the trainer cuts epochs to `plan.per_epoch`."""
        self.pool, self.plan, self.flip = pool, plan, flip
        self.length = plan.per_epoch if length is None else length
        self.batches = 0

    def __len__(self) -> int:
        return self.length

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self.batches // self.plan.per_epoch

    def __iter__(self) -> Iterator[Batch]:
        start = self.batches
        stop = (self.epoch + 1) * self.plan.per_epoch
        for number, (raw, indices) in enumerate(self.pool.batches(self.plan, start, stop), start):
            x = to_float(raw)
            if self.flip:
                x = mirror(x, self.plan.flips(number))
            self.batches = number + 1
            yield make_batch(x, self.pool, indices)

    def state_dict(self) -> dict[str, int]:
        """The position, counted in batches that were delivered: what workers have prefetched does not count."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the last batch delivered before `state` was taken."""
        self.batches = int(state["batches"])


class ValLoader:
    """Yield held-out images in a fixed order; rank r of W takes images r, r + W, ... with no padding and no repeats.

    A batch also has "index", int64 [B], the place of each image among all. Every rank has the same number of batches.
    Their sizes differ by at most one image, so a rank's batch is empty, [0, ...], only where there are fewer images
    than ranks: weight means by the true counts.
    """

    def __init__(self, pool: Pool, indices: Tensor, *, batch: int, rank: int = 0, world: int = 1) -> None:
        """Serve `indices` [n] of `pool` (ascending), at most `batch` images a rank at a time."""
        self.pool, self.indices, self.rank, self.world = pool, indices[rank::world], rank, world
        self.length = -(-len(indices) // (world * batch))
        self._raw: Tensor | None = None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        if self._raw is None:  # decoded once, kept as bytes
            empty = torch.empty(0, *self.pool.shape)
            self._raw = torch.cat(list(self.pool.chunks(self.indices, 1024))) if len(self.indices) else empty
        parts = torch.arange(len(self.indices)).tensor_split(self.length) if self.length else ()
        for part in parts:
            batch = make_batch(to_float(self._raw[part]), self.pool, self.indices[part])
            yield {**batch, "index": self.rank + self.world * part}


def mirror(x: Tensor, which: Tensor) -> Tensor:
    """Flip the images of `x` [B, C, H, W] left to right where `which` [B] is true."""
    return torch.where(which.view(-1, 1, 1, 1), x.flip(-1), x)


def make_batch(x: Tensor, pool: Pool, indices: Tensor) -> Batch:
    """Put labels and ids beside the images `x` [B, ...] at `indices` [B] of `pool`."""
    labels = None if pool.labels is None else pool.labels[indices]
    return {"x": x, "labels": labels, "ids": [pool.ids[i] for i in indices.tolist()]}
