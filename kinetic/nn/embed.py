"""Embeddings of time and of labels, shared by the networks. Time is embedded in float32 or wider, also in bf16 runs."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetic.errors import KineticError


def sinusoid(t: Tensor, features: int, *, period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of `t` [B] at `features // 2` frequencies from 1 down to almost 1/`period` -> [B, features].

    The result is float32, or float64 where `t` is. An odd number of features ends in a zero.
    """
    wide = t if t.dtype == torch.float64 else t.float()
    half = features // 2
    exponents = torch.arange(half, dtype=wide.dtype, device=t.device) / half
    angles = wide[:, None] * torch.exp(-math.log(period) * exponents)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    return F.pad(waves, (0, features % 2))


class WideLinear(nn.Linear):
    """A linear layer that computes in float32 or wider even where its weights are bfloat16 or float16."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_features] to [B, out_features] in the wider of the dtypes of `x` and the weights."""
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        return F.linear(x.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


class TimeEmbedding(nn.Sequential):
    """Sinusoid, linear, SiLU, linear: t [B] in [0, 1] -> [B, width], float32 or wider, also under autocast.

    `scale` multiplies `t` first. The layers with weights are named 0 and 2, as in the public checkpoints.
    """

    def __init__(self, features: int, width: int, *, scale: float = 1.0) -> None:
        super().__init__(WideLinear(features, width), nn.SiLU(), WideLinear(width, width))
        self.features = features
        self.scale = scale

    def forward(self, t: Tensor) -> Tensor:
        """Embed the times [B] -> [B, width]."""
        with torch.autocast(t.device.type, enabled=False):
            return super().forward(sinusoid(t * self.scale, self.features))


class LabelEmbedding(nn.Embedding):
    """A table of `num_classes + 1` rows, the last of which stands for "no label" (null)."""

    def __init__(self, num_classes: int, width: int) -> None:
        check_classes(num_classes)
        super().__init__(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Look up the labels [B] in 0..num_classes -> [B, width]."""
        return super().forward(labels)


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, by name."""
    for name, size in sizes.items():
        if size < 1:
            raise KineticError(f"{name} must be at least 1, got {size}")


def check_classes(num_classes: int | None) -> None:
    """Refuse a number of classes below 1."""
    if num_classes is not None and num_classes < 1:
        raise KineticError(f"num_classes must be at least 1, or null for a network without labels, got {num_classes}")


def check_times(t: Tensor, batch: int) -> Tensor:
    """Return the times as a tensor [batch]; `t` may hold one time for the whole batch."""
    if t.ndim == 0:
        return t.expand(batch)
    if t.shape != (batch,):
        raise KineticError(
            f"t has shape {tuple(t.shape)} but the batch has {batch} rows; pass one time a row, [{batch}]"
        )
    return t


def check_labels(labels: Tensor | None, num_classes: int | None, x: Tensor) -> Tensor | None:
    """Return the labels [B] that a network takes for the batch `x` [B, ...], the null label where they are None.

    Values are looked at on the CPU only, and not in a compiled graph: on a GPU that would wait for the device.
    """
    if num_classes is None:
        if labels is not None:
            raise KineticError("labels were given to a network without classes; pass labels=None or set num_classes")
        return None
    if labels is None:
        return torch.full((x.shape[0],), num_classes, device=x.device)
    if labels.shape != x.shape[:1]:
        raise KineticError(
            f"labels have shape {tuple(labels.shape)} but the batch has {x.shape[0]} rows; pass one a row"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise KineticError(f"labels must be integers, got {labels.dtype}")
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = labels[(labels < 0) | (labels > num_classes)]
        if wrong.numel():
            raise KineticError(
                f"label {int(wrong[0])} is outside the range 0 to {num_classes} (of which {num_classes} means no label)"
            )
    return labels


def check_input(x: Tensor, sample_shape: tuple[int, ...], fix: str) -> None:
    """Refuse a batch `x` whose rows are not of `sample_shape`; `fix` names the arguments that set the shape."""
    if tuple(x.shape[1:]) != sample_shape:
        wanted = ", ".join(map(str, sample_shape))
        raise KineticError(f"input has shape {tuple(x.shape)} but the network takes [B, {wanted}]; set {fix} to match")
