"""Classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) as a velocity with the shape of x."""

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Field, Network, Velocity


def guided(net: Network | Field, labels: Tensor | None = None, scale: float = 1.0) -> Velocity:
    """Turn a network `net(x, t, labels)` or a field into a velocity `(x, t) -> v` that a solver can follow.

    `labels` is [B] int64 or None. At `scale` 1 each evaluation calls the network once with the labels as given; at any
    other scale once on a doubled batch, for `v_null + scale (v_labels - v_null)`, where the null label is
    `num_classes`; where the field says how many channels are guided (`cfg_channels`), the others are those of
    `v_labels`. The velocity takes `t` as 0-d or [B] and gives the network [B], in the dtype it came in.
    """
    field = Field.of(net)
    if scale == 1:
        return lambda x, t: field(x, t.expand(x.shape[0]), labels)
    if field.num_classes is None or not field.null_label or labels is None:
        missing = "labels" if labels is None else "a label that means none, which this network was not trained with"
        missing = "a class-conditional network" if field.num_classes is None else missing
        raise KineticError(f"guidance {scale:g} needs {missing}; use guidance 1 to sample without")
    classes = field.num_classes

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(x.shape[0])
        both = torch.cat([labels, torch.full_like(labels, classes)])
        v, null = field(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        if field.cfg_channels is None:
            return torch.lerp(null, v, scale)
        first, rest = v[:, : field.cfg_channels], v[:, field.cfg_channels :]
        return torch.cat([torch.lerp(null[:, : field.cfg_channels], first, scale), rest], dim=1)

    return velocity
