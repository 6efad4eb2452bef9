"""SiT put together from timm's parts in the plainest way, as its paper describes it (Ma et al., arXiv 2401.08740).

SiT's own code is not on a package index. This has its arithmetic and its parameters' names, and stands in for it as
what a step of ours is compared with.
"""

import math

import torch
from timm.models.vision_transformer import Attention, Mlp, PatchEmbed
from torch import Tensor, nn


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift tokens [B, T, width] by [B, width]."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Times(nn.Module):
    """Sinusoid of t [B], linear, SiLU, linear."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Map t [B] to [B, width]."""
        half = self.features // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
        angles = t[:, None] * rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class Labels(nn.Module):
    """A table of classes and one row for none."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels [B] to [B, width]."""
        return self.embedding_table(labels)


class Block(nn.Module):
    """Attention and perceptron, each modulated and gated by the embedding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, 4 * width, act_layer=lambda: nn.GELU(approximate="tanh"))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map tokens [B, T, width] and embedding [B, width] to tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulated(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulated(self.norm2(x), shift2, scale2))


class Last(nn.Module):
    """Modulated norm, and a linear map to patches."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map tokens [B, T, width] to patches [B, T, outputs]."""
        return self.linear(modulated(self.norm_final(x), *self.adaLN_modulation(c).chunk(2, dim=1)))


class PlainSiT(nn.Module):
    """`net(x, t, labels)`: SiT-B/2 on latents [B, 4, 32, 32], twice the channels predicted and half of them dropped."""

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12, classes: int = 1000) -> None:
        super().__init__()
        self.x_embedder = PatchEmbed(32, 2, 4, width, bias=True)
        self.t_embedder, self.y_embedder = Times(width), Labels(classes, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 256, width), requires_grad=False)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.final_layer = Last(width, 2 * 2 * 8)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Velocity at x [B, 4, 32, 32] and t [B]."""
        h = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(labels)
        for block in self.blocks:
            h = block(h, c)
        h = self.final_layer(h, c).reshape(len(x), 16, 16, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", h).reshape(len(x), 8, 32, 32).chunk(2, dim=1)[0]
