"""Sizes of a public transformer (SiT, REPA, LightningDiT) from the shapes of its weights."""

import math
import re
from typing import Any

import torch

from kinetic.errors import KineticError
from kinetic.models.public import Kind, Weights
from kinetic.models.sizes import Shapes, Translation, read_classes
from kinetic.nn.positions import rotary_waves

HEAD_CHANNELS = {384: 64, 768: 64, 1024: 64, 1152: 72}  # channels of one head by width: S, B, L, XL
ROTARY = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")
GUIDED = {"sit": 3, "lightningdit": 3}  # channels that guidance acts on there; REPA guides all
TABLES = (1000,)  # rows of a table that has no null row: ImageNet's classes


def renamed(weights: Weights) -> Weights:
    """A transformer's weights under our names: without projectors, REPA's second stack of blocks behind its first."""
    first = 1 + max((int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))), default=-1)

    def ours(name: str) -> str:
        found = re.match(r"decoder_blocks\.(\d{1,6})\.(.*)", name)
        return name if found is None else f"blocks.{first + int(found[1])}.{found[2]}"

    return {ours(name): value for name, value in weights.items() if not name.startswith(("projectors.", *ROTARY))}


def read_transformer(
    weights: Weights,
    kind: Kind,
    source: str,
    *,
    heads: int | None = None,
    classes: int | None = None,
    settings: dict[str, Any],
) -> Translation:
    """Read the sizes of a transformer off the weights that its file holds; classes also by what its settings say."""
    shapes = Shapes(renamed(weights), source)
    width, channels, patch, other = shapes.of("x_embedder.proj.weight", 4)
    tokens = shapes.of("pos_embed", 3)[1]
    grid = math.isqrt(tokens)
    if patch != other or grid**2 != tokens:
        raise shapes.fault(f"its {tokens} patches of {patch} x {other} make no square")
    outputs = shapes.of("final_layer.linear.weight", 2)[0]
    gated, rms = "blocks.0.mlp.w12.weight" in shapes, "blocks.0.norm1.weight" in shapes
    rotary = ROTARY[0] in weights
    count, notes = _heads(shapes, weights, width, heads)
    known, null, more = read_classes(shapes, "y_embedder.embedding_table.weight", classes, _whole(settings))
    network: dict[str, Any] = {
        "patch_size": patch,
        "input_size": grid * patch,
        "in_channels": channels,
        "num_classes": known,
        "learn_sigma": shapes.ratio("the number of its outputs", outputs, patch**2 * channels) == 2,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "depth": shapes.count("blocks."),
        "hidden_size": width,
        "num_heads": count,
        "mlp_ratio": _mlp_ratio(shapes, width, gated),
        "norm": "rms" if rms else "layer",
        "mlp": "swiglu" if gated else "gelu",
        "rotary": rotary,
    }
    if rotary:
        _check_waves(weights, shapes, width // count, grid)
    field: dict[str, Any] = {} if null else {"null_label": False}
    field |= {"cfg_channels": GUIDED[kind]} if known and kind in GUIDED and channels > GUIDED[kind] else {}
    field |= {"time": "data_to_noise"} if kind == "repa" else {}
    return Translation(network=network, field=field, classes=known, notes=[*notes, *more])


def _whole(settings: dict[str, Any]) -> tuple[int, ...]:
    """Rows of a table that has no row for none: as many as the classes that a file states, else ImageNet's."""
    data = settings.get("data")
    stated = (data if isinstance(data, dict) else settings).get("num_classes")  # LightningDiT has it under data
    return (stated,) if isinstance(stated, int) else TABLES


def _heads(shapes: Shapes, weights: Weights, width: int, heads: int | None) -> tuple[int, list[str]]:
    """How many heads: as told, by the channels of one where its norm or positions show them, or by the width."""
    if heads is not None:
        if heads < 1 or width % heads:
            raise KineticError(f"--heads {heads} does not divide the width of {width} in {shapes.source}")
        return heads, []
    if "blocks.0.attn.q_norm.weight" in shapes:
        return shapes.ratio("its width", width, shapes.of("blocks.0.attn.q_norm.weight", 1)[0]), []
    if ROTARY[0] in weights:
        return shapes.ratio("its width", width, Shapes(weights, shapes.source).of(ROTARY[0], 2)[1]), []
    if width not in HEAD_CHANNELS:
        known = ", ".join(map(str, HEAD_CHANNELS))
        raise KineticError(
            f"{shapes.source} does not show how many heads its width of {width} is divided into (known: {known}); "
            "say so with --heads"
        )
    return width // HEAD_CHANNELS[width], [f"{HEAD_CHANNELS[width]} channels a head, by its width (--heads)"]


def _mlp_ratio(shapes: Shapes, width: int, gated: bool) -> float:
    """A ratio by which the hidden width comes out as it is."""
    hidden = shapes.of("blocks.0.mlp.w3.weight", 2)[1] if gated else shapes.of("blocks.0.mlp.fc1.weight", 2)[0]

    def comes_out(ratio: float) -> bool:
        inner = int(width * ratio)
        return (2 * inner // 3 if gated else inner) == hidden  # as the blocks have it

    wanted = (3 * hidden + 1) // 2 if gated else hidden
    return next(filter(comes_out, (4.0, wanted / width)), (wanted + 0.5) / width)


def _check_waves(weights: Weights, shapes: Shapes, channels: int, grid: int) -> None:
    """Raise KineticError where rotary positions turn otherwise than ours."""
    theirs = [weights.get(name) for name in ROTARY]
    if channels % 4:
        raise shapes.fault(f"rotary positions need heads of a multiple of 4 channels, and these have {channels}")
    ours = rotary_waves(channels, grid)
    for name, one, other in zip(ROTARY, theirs, ours, strict=True):
        if (
            one is None
            or one.shape != other.shape
            or one.is_complex()
            or not torch.allclose(one.float(), other, atol=1e-2)
        ):
            raise shapes.fault(f"its rotary positions ({name}) are none of LightningDiT's")
