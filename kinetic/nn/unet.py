"""The UNet of ADM (Dhariwal and Nichol, arXiv 2105.05233), with the parameter names of its public checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kinetic.errors import KineticError
from kinetic.nn.blocks import AttentionBlock, Downsample, ResBlock, Stage, Upsample, group_norm, zeroed
from kinetic.nn.embed import (
    LabelEmbedding,
    TimeEmbedding,
    check_classes,
    check_input,
    check_labels,
    check_sizes,
    check_times,
)


class UNet(nn.Module):
    """`net(x, t, labels)`: x [B, in_channels, S, S], t [B] in [0, 1], labels [B] or None -> [B, out_channels, S, S].

    S is `image_size`; the output has the dtype of `x`, in the default memory format. `x` may be channels-last. The
    defaults are torchcfm's CIFAR-10 network (35.75 M parameters), which trains with dropout 0.1.

    - `channel_mult`: one entry a level, in multiples of `model_channels`; the image is halved between two levels.
    - `attention_resolutions`: the levels with attention, by their size in pixels. The middle always has attention.
    - `num_head_channels`: channels of one head; None takes `num_heads` heads everywhere instead.
    - `num_classes`: None builds no label table; otherwise it has `num_classes + 1` rows, the last meaning "no label",
      which is also what `labels=None` means.
    - `use_scale_shift_norm`, `resblock_updown`, `conv_resample`, `use_new_attention_order`: as in ADM.
    - `time_scale`: multiplies t before the sinusoid. torchcfm's networks take t raw, ADM's were made for 0 to 1000.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        out_channels: int | None = None,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        attention_resolutions: Sequence[int] = (16,),
        num_heads: int = 1,
        num_head_channels: int | None = 64,
        dropout: float = 0.0,
        num_classes: int | None = None,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        conv_resample: bool = True,
        use_new_attention_order: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(image_size=image_size, model_channels=model_channels, num_res_blocks=num_res_blocks)
        check_sizes(in_channels=in_channels, out_channels=in_channels if out_channels is None else out_channels)
        check_levels(image_size, channel_mult, attention_resolutions)
        check_classes(num_classes)
        if not 0 <= dropout < 1:
            raise KineticError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.num_classes = num_classes
        self.sample_shape = (in_channels, image_size, image_size)
        # On a CPU, channels-last is faster by 10 % at 32 pixels, the weights included, and slower by 3 % at 8.
        self.layout = torch.channels_last if image_size >= 16 else torch.contiguous_format
        parts = Parts(
            embedding=4 * model_channels,
            dropout=dropout,
            scale_shift=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            conv_resample=conv_resample,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            split_first=use_new_attention_order,
            attention_at=frozenset(attention_resolutions),
        )
        self.time_embed = TimeEmbedding(model_channels, parts.embedding, scale=time_scale)
        if num_classes is not None:
            self.label_emb = LabelEmbedding(num_classes, parts.embedding)
        levels = [(image_size >> level, mult * model_channels) for level, mult in enumerate(channel_mult)]
        stem = nn.Conv2d(in_channels, levels[0][1], 3, padding=1)
        down, skips = parts.encoder(levels, num_res_blocks)
        self.input_blocks = nn.ModuleList([Stage([stem]), *down])
        self.middle_block = parts.middle(levels[-1][1])
        self.output_blocks = nn.ModuleList(parts.decoder(levels, num_res_blocks, skips))
        last = nn.Conv2d(levels[0][1], out_channels or in_channels, 3, padding=1)
        self.out = nn.Sequential(group_norm(levels[0][1]), nn.SiLU(), zeroed(last))
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=self.layout)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the velocity at state `x` [B, C, S, S] and times `t` [B], for `labels` [B] where there are classes."""
        check_input(x, self.sample_shape, "in_channels and image_size")
        labels = check_labels(labels, self.num_classes, x)
        emb = self.time_embed(check_times(t, x.shape[0]))
        if labels is not None:
            emb = emb + self.label_emb(labels)
        dtype = next(self.out.parameters()).dtype
        emb = emb.to(dtype)
        stem, *stages = self.input_blocks
        h = stem(x.to(dtype), emb).contiguous(memory_format=self.layout)
        skips = [h]
        for stage in stages:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h).to(x.dtype).contiguous()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The options that all blocks of one UNet share, and the stacks of blocks made with them."""

    embedding: int
    dropout: float
    scale_shift: bool
    resblock_updown: bool
    conv_resample: bool
    num_heads: int
    num_head_channels: int | None
    split_first: bool
    attention_at: frozenset[int]

    def residual(self, channels: int, width: int, resample: Literal["up", "down"] | None = None) -> ResBlock:
        """Make a residual block from `channels` to `width`."""
        return ResBlock(
            channels,
            width,
            embedding=self.embedding,
            dropout=self.dropout,
            scale_shift=self.scale_shift,
            resample=resample,
        )

    def attention(self, channels: int) -> AttentionBlock:
        """Make an attention block with the right number of heads."""
        heads = count_heads(channels, self.num_heads, self.num_head_channels)
        return AttentionBlock(channels, heads=heads, split_first=self.split_first)

    def stage(self, channels: int, width: int, size: int) -> Stage:
        """Make a residual block and, where images of `size` pixels have it, attention."""
        attention = [self.attention(width)] if size in self.attention_at else []
        return Stage([self.residual(channels, width), *attention])

    def down(self, channels: int) -> nn.Module:
        """Make what halves the image."""
        if self.resblock_updown:
            return self.residual(channels, channels, "down")
        return Downsample(channels, learned=self.conv_resample)

    def up(self, channels: int) -> nn.Module:
        """Make what doubles the image."""
        if self.resblock_updown:
            return self.residual(channels, channels, "up")
        return Upsample(channels, learned=self.conv_resample)

    def encoder(self, levels: Sequence[tuple[int, int]], blocks: int) -> tuple[list[Stage], list[int]]:
        """Make the stages after the stem for (size, width) `levels`; also return the channels of every skip."""
        stages: list[Stage] = []
        skips = [levels[0][1]]
        for level, (size, width) in enumerate(levels):
            if level:
                stages.append(Stage([self.down(skips[-1])]))
                skips.append(skips[-1])
            for _ in range(blocks):
                stages.append(self.stage(skips[-1], width, size))
                skips.append(width)
        return stages, skips

    def middle(self, channels: int) -> Stage:
        """Make the stage at the lowest resolution: residual, attention, residual."""
        return Stage([self.residual(channels, channels), self.attention(channels), self.residual(channels, channels)])

    def decoder(self, levels: Sequence[tuple[int, int]], blocks: int, skips: Sequence[int]) -> list[Stage]:
        """Make the stages back up, each of which takes one skip, the last one first."""
        stages: list[Stage] = []
        remaining, channels = list(skips), levels[-1][1]
        for level, (size, width) in reversed(list(enumerate(levels))):
            for _ in range(blocks + 1):
                stages.append(self.stage(channels + remaining.pop(), width, size))
                channels = width
            if level:
                stages[-1].append(self.up(channels))
        return stages


def count_heads(channels: int, num_heads: int, num_head_channels: int | None) -> int:
    """Return the number of heads for attention over `channels`, refusing a division that leaves a remainder."""
    if num_head_channels is None:
        if num_heads < 1 or channels % num_heads:
            raise KineticError(
                f"num_heads {num_heads} does not divide the {channels} channels of a level with attention"
            )
        return num_heads
    if num_head_channels < 1 or channels % num_head_channels:
        raise KineticError(
            f"num_head_channels {num_head_channels} does not divide the {channels} channels of a level with attention; "
            "choose a divisor, or num_head_channels null with num_heads"
        )
    return channels // num_head_channels


def check_levels(size: int, channel_mult: Sequence[int], attention: Sequence[int]) -> None:
    """Refuse levels that images of `size` cannot be halved to, and attention at a resolution that no level has."""
    if not channel_mult or min(channel_mult) < 1:
        raise KineticError(f"channel_mult needs one positive integer a level, got {list(channel_mult)}")
    halvings = len(channel_mult) - 1
    if size >> halvings < 2 and halvings:
        raise KineticError(
            f"images of {size}x{size} are smaller than the network takes: it halves them {halvings} times; "
            f"use channel_mult with at most {max(1, size.bit_length() - 1)} entries"
        )
    if size % (1 << halvings):
        raise KineticError(
            f"images of {size}x{size} cannot be halved {halvings} times; resize them to a multiple of {1 << halvings} "
            f"or use channel_mult with at most {(size & -size).bit_length()} entries"
        )
    sizes = [size >> level for level in range(halvings + 1)]
    for resolution in attention:
        if resolution not in sizes:
            raise KineticError(
                f"attention_resolutions holds {resolution} but the levels of the network are {sizes} pixels wide; "
                "choose among these, or leave the list empty"
            )
