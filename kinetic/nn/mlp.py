"""A small residual network for points, such as 2-D toy data."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetic.nn.embed import (
    LabelEmbedding,
    TimeEmbedding,
    check_classes,
    check_input,
    check_labels,
    check_sizes,
    check_times,
)


class MLP(nn.Module):
    """`net(x, t, labels)`: x [B, dim], t [B] in [0, 1], labels [B] or None -> [B, dim], in the dtype of `x`.

    `depth` residual layers of `width` units, each of which sees the embeddings of the time and of the label. With
    classes the label table has `num_classes + 1` rows, the last meaning "no label", as `labels=None` does.
    """

    def __init__(
        self,
        *,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        num_classes: int | None = None,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width, depth=depth)
        check_classes(num_classes)
        self.num_classes = num_classes
        self.sample_shape = (dim,)
        self.time_embed = TimeEmbedding(width, width, scale=time_scale)
        if num_classes is not None:
            self.label_emb = LabelEmbedding(num_classes, width)
        self.inp = nn.Linear(dim, width)
        self.layers = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the velocity at points `x` [B, dim] and times `t` [B], for `labels` [B] where there are classes."""
        check_input(x, self.sample_shape, "dim")
        labels = check_labels(labels, self.num_classes, x)
        emb = self.time_embed(check_times(t, x.shape[0]))
        if labels is not None:
            emb = emb + self.label_emb(labels)
        emb = F.silu(emb).to(self.out.weight.dtype)
        h = self.inp(x.to(self.out.weight.dtype))
        for layer in self.layers:
            h = h + layer(torch.cat([F.silu(h), emb.to(h.dtype)], dim=1))
        return self.out(F.silu(h)).to(x.dtype)
