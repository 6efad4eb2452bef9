"""The diffusion transformer (Peebles and Xie, arXiv 2212.09748), with SiT's parameter names; built of timm's layers.

Its options include the blocks of LightningDiT (Yao et al., arXiv 2501.01423), under the names of its weights.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import Attention, Mlp, PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from kinetic.errors import KineticError
from kinetic.nn.embed import (
    LabelEmbedding,
    TimeEmbedding,
    check_classes,
    check_input,
    check_labels,
    check_sizes,
    check_times,
)
from kinetic.nn.positions import grid_embedding, rotary_waves, rotate


@dataclass(frozen=True)
class Size:
    """Depth, width and attention heads of a transformer."""

    depth: int
    hidden_size: int
    num_heads: int


SIZES = {"S": Size(12, 384, 6), "B": Size(12, 768, 12), "L": Size(24, 1024, 16), "XL": Size(28, 1152, 16)}
TIME_FEATURES = 256


class DiT(nn.Module):
    """`net(x, t, labels)`: x [B, in_channels, S, S], t [B] in [0, 1], labels [B] or None -> the same shape and dtype.

    S is `input_size`, in pixels or latents, a multiple of `patch_size`. `x` may be channels-last.

    - `size`: S, B, L or XL; `depth`, `hidden_size` and `num_heads` override what it stands for.
    - `num_classes`: None builds no label table; otherwise it has `num_classes + 1` rows, the last meaning "no label",
      which is also what `labels=None` means.
    - `learn_sigma`: the last layer has twice the outputs, as in the public weights, and the second half is dropped.
    - `qk_norm`: a norm on queries and keys.
    - `norm`: "layer", without parameters but on queries and keys, or "rms", RMSNorm with weights everywhere.
    - `mlp`: "gelu", or "swiglu" (w3(silu(a) b) with a, b of w12; of 2/3 of the hidden width).
    - `rotary`: queries and keys are turned by the row and column of their patch; a head needs a multiple of 4 channels.
    - `time_scale`: multiplies t before the sinusoid; SiT takes t raw.
    """

    def __init__(
        self,
        *,
        size: Literal["S", "B", "L", "XL"] = "B",
        patch_size: int = 2,
        input_size: int = 32,
        in_channels: int = 4,
        num_classes: int | None = None,
        learn_sigma: bool = False,
        qk_norm: bool = False,
        depth: int | None = None,
        hidden_size: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        norm: Literal["layer", "rms"] = "layer",
        mlp: Literal["gelu", "swiglu"] = "gelu",
        rotary: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        shape = resolve_size(size, depth, hidden_size, num_heads)
        width = shape.hidden_size
        check_sizes(patch_size=patch_size, input_size=input_size, in_channels=in_channels)
        check_classes(num_classes)
        if input_size % patch_size:
            raise KineticError(f"input_size {input_size} is not a multiple of patch_size {patch_size}")
        if mlp_ratio <= 0:
            raise KineticError(f"mlp_ratio must be above 0, got {mlp_ratio}")
        check_parts(norm, mlp, width // shape.num_heads if rotary else None)
        self.num_classes = num_classes
        self.sample_shape = (in_channels, input_size, input_size)
        self.patch_size = patch_size
        self.x_embedder = PatchEmbed(
            img_size=input_size, patch_size=patch_size, in_chans=in_channels, embed_dim=width, bias=True
        )
        self.t_embedder = nn.ModuleDict({"mlp": TimeEmbedding(TIME_FEATURES, width, scale=time_scale)})
        if num_classes is not None:
            self.y_embedder = nn.ModuleDict({"embedding_table": LabelEmbedding(num_classes, width)})
        self.register_buffer("pos_embed", grid_embedding(width, input_size // patch_size))
        waves = rotary_waves(width // shape.num_heads, input_size // patch_size) if rotary else None
        self.register_buffer("waves", waves, persistent=False)
        parts: dict[str, Any] = {"mlp_ratio": mlp_ratio, "qk_norm": qk_norm, "norm": norm, "mlp": mlp}
        self.blocks = nn.ModuleList(Block(width, heads=shape.num_heads, **parts) for _ in range(shape.depth))
        self.final_layer = FinalLayer(width, patch_size**2 * in_channels * (2 if learn_sigma else 1), norm=norm)
        for name, parameter in self.named_parameters():
            initialise(name, parameter)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the velocity at state `x` [B, C, S, S] and times `t` [B], for `labels` [B] where there are classes."""
        check_input(x, self.sample_shape, "in_channels and input_size")
        labels = check_labels(labels, self.num_classes, x)
        emb = self.t_embedder["mlp"](check_times(t, x.shape[0]))
        if labels is not None:
            emb = emb + self.y_embedder["embedding_table"](labels)
        dtype = self.final_layer.linear.weight.dtype
        emb = emb.to(dtype)
        h = self.x_embedder(x.to(dtype)) + self.pos_embed
        for block in self.blocks:
            h = block(h, emb, self.waves)
        return self.to_image(self.final_layer(h, emb)).to(x.dtype)

    def to_image(self, tokens: Tensor) -> Tensor:
        """Lay patches [B, T, patch * patch * channels] out as an image, keeping the first `in_channels` of it."""
        channels, size, _ = self.sample_shape
        patch, grid = self.patch_size, size // self.patch_size
        pixels = tokens.view(-1, grid, grid, patch, patch, tokens.shape[2] // patch**2)[..., :channels]
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, size, size)


class Block(nn.Module):
    """A transformer block whose norms are shifted and scaled, and whose branches are gated, by the embedding."""

    def __init__(
        self, width: int, *, heads: int, mlp_ratio: float, qk_norm: bool, norm: str = "layer", mlp: str = "gelu"
    ) -> None:
        super().__init__()
        inner = (nn.LayerNorm if norm == "layer" else RMSNorm) if qk_norm else None
        self.norm1 = norm_of(norm, width)
        self.attn = TurnedAttention(dim=width, num_heads=heads, qkv_bias=True, qk_norm=qk_norm, norm_layer=inner)
        self.norm2 = norm_of(norm, width)
        hidden = int(width * mlp_ratio)
        self.mlp = (
            SwiGLU(width, 2 * hidden // 3)
            if mlp == "swiglu"
            else Mlp(in_features=width, hidden_features=hidden, act_layer=TanhGELU)
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, emb: Tensor, waves: Tensor | None = None) -> Tensor:
        """Map tokens [B, T, width] and the embedding [B, width] to tokens; `waves` are of `rotary_waves`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(emb)[:, None].chunk(6, dim=2)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), waves)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class TurnedAttention(Attention):
    """timm's attention, whose queries and keys may be turned by their places."""

    def forward(self, x: Tensor, waves: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Map tokens [B, T, width] to tokens; `waves` [2, T, channels of a head] turn normed queries and keys."""
        if waves is None:
            return super().forward(x)
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = (rotate(part, waves).to(v.dtype) for part in (self.q_norm(q), self.k_norm(k)))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Two linear maps at once, one gating the other by SiLU, and one back (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [..., width] to tokens."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm with weights."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(width, eps=1e-6, **options)


class TanhGELU(nn.GELU):
    """GELU by its tanh approximation."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


class FinalLayer(nn.Module):
    """Modulated norm and linear map from tokens to patches."""

    def __init__(self, width: int, outputs: int, *, norm: str = "layer") -> None:
        super().__init__()
        self.norm_final = norm_of(norm, width)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map tokens [B, T, width] and the embedding [B, width] to [B, T, outputs]."""
        shift, scale = self.adaLN_modulation(emb)[:, None].chunk(2, dim=2)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x (1 + scale) + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def norm_of(kind: str, width: int) -> nn.Module:
    """Layer norm without parameters, or RMSNorm with weights."""
    return RMSNorm(width) if kind == "rms" else nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


def check_parts(norm: str, mlp: str, turned: int | None) -> None:
    """Refuse parts of unknown kinds, and rotary positions of heads with `turned` channels that cannot be paired."""
    for name, value, kinds in (("norm", norm, ("layer", "rms")), ("mlp", mlp, ("gelu", "swiglu"))):
        if value not in kinds:
            raise KineticError(f"{name} must be one of {', '.join(kinds)}, got {value!r}")
    if turned is not None and turned % 4:
        raise KineticError(f"rotary positions need a multiple of 4 channels a head, got {turned}")


def initialise(name: str, parameter: nn.Parameter) -> None:
    """Set biases, modulations and the last layer to zero (adaLN-zero), embeddings to N(0, 0.02^2), others to Xavier."""
    if name.endswith("bias") or "adaLN_modulation" in name or name == "final_layer.linear.weight":
        nn.init.zeros_(parameter)
    elif name.startswith(("t_embedder", "y_embedder")):
        nn.init.normal_(parameter, std=0.02)
    elif parameter.ndim > 1:
        nn.init.xavier_uniform_(parameter.flatten(1))


def resolve_size(size: str, depth: int | None, hidden_size: int | None, num_heads: int | None) -> Size:
    """Look the size up and put the given numbers in its place."""
    if size not in SIZES:
        raise KineticError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    base = SIZES[size]
    depth = base.depth if depth is None else depth
    hidden_size = base.hidden_size if hidden_size is None else hidden_size
    num_heads = base.num_heads if num_heads is None else num_heads
    check_sizes(depth=depth, hidden_size=hidden_size, num_heads=num_heads)
    if hidden_size % num_heads:
        raise KineticError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    if hidden_size % 4:
        raise KineticError(
            f"hidden_size must be a multiple of 4 (sine and cosine of row and column), got {hidden_size}"
        )
    return Size(depth, hidden_size, num_heads)
