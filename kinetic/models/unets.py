"""Sizes of a public ADM UNet (torchcfm, flow_matching) from the shapes of its weights."""

from typing import Any

from kinetic.errors import KineticError
from kinetic.models.public import Kind, Weights
from kinetic.models.sizes import Shapes, Translation, read_classes

PIXELS = 32  # of an image where nothing says otherwise: a UNet takes images of many sizes
DATA_PIXELS = {"cifar10": 32, "imagenet": 64}  # what flow_matching's recipes resize to
MOST_PIXELS = 2**14
HEAD_CHANNELS = 64  # torchcfm's recipe, and flow_matching's for ImageNet


def read_unet(
    weights: Weights,
    kind: Kind,
    source: str,
    *,
    size: int | None = None,
    heads: int | None = None,
    head_channels: int | None = None,
    classes: int | None = None,
    settings: dict[str, Any],
) -> Translation:
    """Read the sizes of a UNet off its weights; image size and heads, which they do not show, are told or assumed."""
    shapes = Shapes(weights, source)
    base = shapes.of("time_embed.0.weight", 2)[1]
    channels = shapes.of("input_blocks.0.0.weight", 4)[1]
    outputs = shapes.of("out.2.weight", 4)[0]
    if outputs != channels:
        raise shapes.fault(f"it makes {outputs} channels of {channels}, as networks of diffusion with a variance do")
    levels, blocks, residual, learned = _levels(shapes)
    widths = [shapes.of(f"input_blocks.{1 + n * (blocks + 1)}.0.out_layers.3.weight", 4)[0] for n in range(levels)]
    pixels, notes = _pixels(size, levels, settings)
    attention = [n for n in range(levels) if f"input_blocks.{1 + n * (blocks + 1)}.1.qkv.weight" in shapes]
    divided, more = _heads(kind, residual, heads, head_channels)
    _check_heads(divided, {widths[n] for n in [*attention, levels - 1]}, source)
    whole = (shapes.of("label_emb.weight", 2)[0],) if kind == "torchcfm" and "label_emb.weight" in shapes else ()
    known, null, table = read_classes(shapes, "label_emb.weight", classes, whole)
    network: dict[str, Any] = {
        "image_size": pixels,
        "in_channels": channels,
        "model_channels": base,
        "num_res_blocks": blocks,
        "channel_mult": [shapes.ratio("the width of a level", width, base) for width in widths],
        "attention_resolutions": [pixels >> n for n in attention],
        **divided,
        "num_classes": known,
        "use_scale_shift_norm": shapes.of("input_blocks.1.0.emb_layers.1.weight", 2)[0] == 2 * widths[0],
        "resblock_updown": residual,
        "conv_resample": learned,
        "use_new_attention_order": kind == "flow_matching",
    }
    field = {} if null else {"null_label": False}
    return Translation(network=network, field=field, classes=known, notes=[*notes, *more, *table])


def _levels(shapes: Shapes) -> tuple[int, int, bool, bool]:
    """Levels, residual blocks in each, whether these halve and double the image too, and else whether convolutions do.

    The encoder has the stem, and for each level its blocks and (but for the last) what halves the image: an average
    has no weights, so that its number is missing. The decoder has one block more a level.
    """
    numbers, stages = shapes.numbers("input_blocks."), shapes.count("output_blocks.")
    last = numbers[-1] if numbers else 0
    missing = [n for n in range(last) if n not in numbers]
    learned = [n for n in numbers if f"input_blocks.{n}.0.op.weight" in shapes]
    doubled = [n for n in range(stages) if shapes.first(f"output_blocks.{n}.{k}.in_layers.0.weight" for k in (1, 2))]
    levels = 1 + max(len(missing), len(learned), len(doubled))
    if last + 1 != stages or stages % levels or stages // levels < 2:
        raise shapes.fault(f"{last + 1} stages down and {stages} up make no UNet of {levels} levels")
    return levels, stages // levels - 1, bool(doubled), not missing


def _pixels(size: int | None, levels: int, settings: dict[str, Any]) -> tuple[int, list[str]]:
    """The size of images, as told, or by the recipe and with a note."""
    if size is not None:
        if size < 1 or size % (1 << (levels - 1)) or size >= MOST_PIXELS:
            raise KineticError(f"--size should be a multiple of {1 << (levels - 1)} below {MOST_PIXELS:,}, got {size}")
        return size, []
    named = settings.get("dataset")
    pixels = DATA_PIXELS.get(named, PIXELS) if isinstance(named, str) else PIXELS
    return pixels, [f"images of {pixels} x {pixels}, which its weights do not show (--size)"]


def _check_heads(divided: dict[str, Any], widths: set[int], source: str) -> None:
    """Raise KineticError, which names the option, where attention over some of the widths cannot be divided so."""
    channels = divided.get("num_head_channels")
    name, part = ("heads", divided["num_heads"]) if channels is None else ("head-channels", channels)
    for width in sorted(widths):
        if part < 1 or width % part:
            words = f"--{name} {part} does not divide the {width} channels of a level with attention in {source}"
            raise KineticError(f"{words}; pass another --{name}")


def _heads(
    kind: Kind, residual: bool, heads: int | None, head_channels: int | None
) -> tuple[dict[str, Any], list[str]]:
    """The arguments that divide attention into heads, which weights do not show: as told, else as the recipes do."""
    if heads is not None and head_channels is not None:
        raise KineticError("--heads and --head-channels do not go together; leave one out")
    if heads is not None:
        return {"num_heads": heads, "num_head_channels": None}, []
    if head_channels is not None:
        return {"num_head_channels": head_channels}, []
    if kind == "flow_matching" and not residual:
        return {"num_heads": 1, "num_head_channels": None}, ["one head, by the recipe for CIFAR-10 (--heads)"]
    words = f"{HEAD_CHANNELS} channels a head, by the recipe (--heads, --head-channels)"
    return {"num_head_channels": HEAD_CHANNELS}, [words]
