"""Classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) as a velocity with the shape of x."""

from collections.abc import Callable

import torch
from torch import Tensor

from kinetic.errors import KineticError

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Velocity = Callable[[Tensor, Tensor], Tensor]


def guided(net: Network, labels: Tensor | None = None, scale: float = 1.0) -> Velocity:
    """Turn a network `net(x, t, labels)` into a velocity `(x, t) -> v` that a solver can follow.

    `labels` is [B] int64 or None. At `scale` 1 each evaluation calls the network once with the labels as given; at any
    other scale once on a doubled batch, for `v_null + scale (v_labels - v_null)`, where the null label is
    `net.num_classes`. The velocity takes `t` as 0-d or [B] and gives the network [B], in the dtype it came in.
    """
    if scale == 1:
        return lambda x, t: net(x, t.expand(x.shape[0]), labels)
    classes = getattr(net, "num_classes", None)
    if classes is None or labels is None:
        missing = "a class-conditional network" if classes is None else "labels"
        raise KineticError(f"guidance {scale:g} needs {missing}; use guidance 1 to sample without")

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(x.shape[0])
        both = torch.cat([labels, torch.full_like(labels, classes)])
        v, null = net(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(null, v, scale)

    return velocity
