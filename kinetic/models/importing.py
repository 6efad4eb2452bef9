"""A public checkpoint in our own format: a network of ours, its weights, and what it declares of itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinetic.build import ClassConfig
from kinetic.errors import KineticError
from kinetic.models.checkpoint import check_network
from kinetic.models.public import UNETS, PublicFile, Weights, read_public
from kinetic.models.schema import FORMAT, check_checkpoint
from kinetic.models.sizes import Translation, with_null_row
from kinetic.models.transformers import read_transformer, renamed
from kinetic.models.unets import read_unet
from kinetic.store.files import sha256

PATHS = {"linear": "linear", "gvp": "gvp", "cosine": "gvp", "vp": "vp"}
PREDICTIONS = {"velocity": "velocity", "v": "velocity", "noise": "x0", "score": "score"}
FIX = "name its kind with --like, and its sizes with --size, --heads and --classes"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A public checkpoint, translated.

    Attributes:
        checkpoint: what our checkpoint of it holds, plain types and tensors.
        kind: whose conventions it followed.
        network: class and arguments.
        declared: what the network declares besides, as in `Field`.
        path: of training, by name.
        shape: of one sample, without the batch axis.
        classes: how many it knows; None where it knows none.
        parameters: how many numbers the weights are.
        origin: where it came from, plain types.
        notes: what was read off or assumed, for people.
    """

    checkpoint: dict[str, Any]
    kind: str
    network: ClassConfig
    declared: dict[str, Any]
    path: str
    shape: tuple[int, ...]
    classes: int | None
    parameters: int
    origin: dict[str, Any]
    notes: tuple[str, ...]


def imported(
    path: Path | str,
    *,
    like: str | None = None,
    size: int | None = None,
    heads: int | None = None,
    head_channels: int | None = None,
    classes: int | None = None,
    space: str | None = None,
) -> Imported:
    """Translate a public checkpoint.

    Args:
        path: the file.
        like: its kind; None finds it by its keys.
        size: of images in pixels, where the network is a UNet.
        heads: of attention; None takes what weights or width show, or the recipe.
        head_channels: the same as channels of one head, for a UNet.
        classes: how many; a table of labels with one row more has one for none of them.
        space: of the samples, see `Field`; None goes by their shape.
    """
    file = read_public(path, like=like)
    if file.kind in UNETS:
        sizes: dict[str, Any] = {"size": size, "heads": heads, "head_channels": head_channels, "classes": classes}
        found = read_unet(file.weights, file.kind, file.source, **sizes, settings=file.settings)
        shape = (found.network["in_channels"], found.network["image_size"], found.network["image_size"])
        network: ClassConfig = {"class_path": "kinetic.nn.UNet", "init_args": found.network}
    else:
        _unwanted(file, {"--size": size, "--head-channels": head_channels})
        told = {"heads": heads, "classes": classes}
        found = read_transformer(file.weights, file.kind, file.source, **told, settings=file.settings)
        shape = (found.network["in_channels"], found.network["input_size"], found.network["input_size"])
        network = {"class_path": "kinetic.nn.DiT", "init_args": found.network}
    state = _state(file, found, network)
    declared = {**found.field, **_prediction(file), **({} if space is None else {"space": space})}
    origin = {
        "kind": file.kind,
        "file": Path(path).name,
        "sha256": sha256(Path(path)),
        "states_weights": file.averaged is not None,
    }
    travelled = _path(file)
    checkpoint = {
        "state_dict": state,
        "hyper_parameters": {"network": network, "path": travelled, "field": declared, "imported": origin},
        "global_step": file.step,
        "epoch": file.epoch,
        "kinetic": {"format": FORMAT, "sample_shape": list(shape), "class_names": None},
    }
    check_checkpoint(checkpoint, file.source)
    return Imported(
        checkpoint=checkpoint,
        kind=file.kind,
        network=network,
        declared=declared,
        path=travelled,
        shape=shape,
        classes=found.classes,
        parameters=sum(value.numel() for value in _ours(file.weights, found).values()),
        origin=origin,
        notes=(*found.notes, *_doubts(file)),
    )


def _doubts(file: PublicFile) -> list[str]:
    """What the keys of a file leave open, and what of a recipe is left to whoever samples."""
    if file.kind == "lightningdit":
        return ["its own sampler takes Euler steps at times 0.3 t / (1 - 0.7 t); pass such times with --grid"]
    if file.kind != "sit" or "path_type" in file.settings:
        return []
    return ["taken for a velocity, though DiT's networks of diffusion, which predict noise, have the same keys"]


def _unwanted(file: PublicFile, options: dict[str, Any]) -> None:
    """Raise KineticError for an option that says what the weights of a transformer show."""
    for name, value in options.items():
        if value is not None:
            raise KineticError(f"{name} is for UNets, and {file.source} is of {file.kind}; leave it out")


def _ours(weights: Weights, found: Translation) -> Weights:
    """Weights under our names, with a row for no class."""
    return with_null_row(renamed(weights), found.classes)


def _state(file: PublicFile, found: Translation, network: ClassConfig) -> Weights:
    """The averaged and the raw weights as our checkpoints name them, each checked to be those of the network."""
    state: Weights = {}
    for prefix, weights in (("ema.network.", file.averaged), ("net.", file.raw)):
        if weights is not None:
            ours = _ours(weights, found)
            check_network(network, ours, source=file.source, fix=FIX)
            state |= {f"{prefix}{name}": value for name, value in ours.items()}
    return state


def _transport(file: PublicFile) -> dict[str, Any]:
    """What a file says of path and prediction; LightningDiT keeps it in a section of its own."""
    if file.kind in UNETS:
        return {}
    section = file.settings.get("transport")
    return section if isinstance(section, dict) else file.settings


def _path(file: PublicFile) -> str:
    """Path of training, by our name; linear where the file does not say."""
    named = str(_transport(file).get("path_type", "linear")).lower()
    if named not in PATHS:
        raise KineticError(f"{file.source} was trained on the path {named!r:.40}; known are {', '.join(PATHS)}")
    return PATHS[named]


def _prediction(file: PublicFile) -> dict[str, Any]:
    """What the network predicts where that is not the velocity."""
    named = str(_transport(file).get("prediction", "velocity")).lower()
    if named not in PREDICTIONS:
        raise KineticError(f"{file.source} predicts {named!r:.40}; known are {', '.join(PREDICTIONS)}")
    return {} if PREDICTIONS[named] == "velocity" else {"prediction": PREDICTIONS[named]}
