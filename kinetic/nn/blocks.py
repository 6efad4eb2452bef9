"""The parts of the ADM UNet: residual and attention blocks, resampling, and a sequence that hands the embedding on."""

import math
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetic.nn.dropout import Dropout

Layer = TypeVar("Layer", bound=nn.Module)


class GroupNorm(nn.GroupNorm):
    """Group norm, which a CPU computes in float32 for bfloat16: torch's own takes twice as long on channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, ...] to the same shape and type."""
        if x.device.type != "cpu" or x.dtype != torch.bfloat16:
            return super().forward(x)
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


def group_norm(channels: int) -> GroupNorm:
    """Group norm over 32 groups, or over as many as divide both 32 and `channels`."""
    return GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: Layer) -> Layer:
    """Set a layer to zero, so that the branch it ends adds nothing at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Downsample(nn.Module):
    """Halve the height and width, by a 3x3 convolution of stride 2 (`learned`) or by averaging."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H/2, W/2]."""
        return self.op(x)


class Upsample(nn.Module):
    """Double the height and width by repeating pixels, then (`learned`) convolve 3x3."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResBlock(nn.Module):
    """Norm, SiLU, conv; add the embedding; norm, SiLU, dropout, zeroed conv; add the input.

    `resample` ("up" or "down") doubles or halves the image inside the block. With `scale_shift` the embedding scales
    and shifts the second norm's output instead of being added before it.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        embedding: int,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, (2 if scale_shift else 1) * out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels),
            nn.SiLU(),
            Dropout(dropout, inplace=True),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)
        self.resample: nn.Module = nn.Identity()
        if resample is not None:
            self.resample = (Upsample if resample == "up" else Downsample)(channels, learned=False)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x [B, C, H, W] and the embedding [B, E] to [B, out_channels, H', W']."""
        norm, activation, conv = self.in_layers
        h = conv(self.resample(activation(norm(x))))
        shift = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        norm, activation, dropout, conv = self.out_layers
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, norm(h), 1 + scale)
        else:
            h = norm(h + shift)
        return self.skip_connection(self.resample(x)) + conv(dropout(activation(h)))


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, added to the input; the last projection starts at zero.

    `split_first` orders the channels of `qkv` as (q, k, v) x heads (ADM's "new attention order"); the default is
    heads x (q, k, v).
    """

    def __init__(self, channels: int, *, heads: int, split_first: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.split_first = split_first
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        q, k, v = self.heads_of(pointwise(self.qkv, self.norm(x)))
        h = F.scaled_dot_product_attention(q, k, v)
        h = h.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + pointwise(self.proj_out, h)

    def heads_of(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Split [B, 3C, H, W] into queries, keys and values [B, heads, H * W, C / heads], without a copy."""
        tokens = qkv.flatten(2).transpose(1, 2)
        if self.split_first:
            return tokens.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return tokens.unflatten(2, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind(0)


def pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply the weights of a `Conv1d` of kernel 1 to images [B, C, H, W], whatever their memory format."""
    return F.conv2d(x, conv.weight.unsqueeze(-1), conv.bias)


class Stage(nn.ModuleList):
    """Layers in a row; residual blocks among them receive the embedding too."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x [B, C, H, W] and the embedding [B, E] to [B, C', H', W']."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x
