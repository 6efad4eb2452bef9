"""Checkpoints: written whole, read without executing anything from them, and turned back into networks."""

import pickle
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from kinetic.build import ClassConfig, build
from kinetic.data.latents import Latents
from kinetic.errors import KineticError
from kinetic.models.exported import PREFIXES, read_exported
from kinetic.models.schema import check_checkpoint, tensors
from kinetic.store.files import replacing
from kinetic.trust import STRANGER, Trust

COMPILED = "_orig_mod."
NETWORKS, MEASURES = "kinetic.nn", "kinetic"  # where classes of ours live that a configuration may name
OWN_RUN = "use the configuration of its own run"
PICKLE_BYTES = 2**28  # of the part of a checkpoint that is no tensor


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A network with the weights of a checkpoint, in evaluation mode.

    Attributes:
        net: called as net(x, t, labels).
        weights: which weights it has, averaged ("ema") or as trained ("raw").
        hparams: the settings of the training module, plain types.
        sample_shape: of one sample, without the batch axis.
        step: optimiser steps taken, and `epoch` the epoch.
        class_names: of the classes it was trained on, in the order of their numbers; None where they have none.
        latents: of which autoencoder its samples are, where that is known.
    """

    net: nn.Module
    weights: Literal["ema", "raw"]
    hparams: dict[str, Any]
    sample_shape: tuple[int, ...]
    step: int
    epoch: int
    class_names: tuple[str, ...] | None = None
    latents: Latents | None = None


def read_checkpoint(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    allowed: Sequence[type] = (),
    mapped: bool = False,
) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain types; raises KineticError on anything else, executing nothing.

    Every byte is compared with the checksums that torch writes beside them. Objects of the `allowed` classes may occur
    in it as well. With `mapped` tensors stay on disk until they are used.
    """
    path = Path(path)
    if not path.is_file():
        raise KineticError(f"checkpoint {path} does not exist")
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            state = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0][:300]
        raise KineticError(f"checkpoint {path} is refused, it holds more than weights: {reason}") from None
    except MemoryError:
        raise
    except Exception as error:  # whatever torch makes of bytes that it did not write
        reason = (str(error) or type(error).__name__).strip().split("\n")[0][:300]
        raise KineticError(f"checkpoint {path} cannot be read, it is damaged or no checkpoint: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise KineticError(f"checkpoint {path} holds a {type(state).__name__}, not a dictionary of names")
    return state


def _check_archive(path: Path) -> None:
    """Compare the bytes of a checkpoint with their checksums, and what its parts claim to hold with its size."""
    damaged = f"checkpoint {path} cannot be read, it is damaged or no checkpoint"
    try:
        with zipfile.ZipFile(path) as archive:
            parts, size = archive.infolist(), path.stat().st_size
            if sum(part.file_size for part in parts) > size or any(part.compress_type for part in parts):
                raise KineticError(f"{damaged}: it claims to hold more than its {size:,} bytes")
            plain = [part for part in parts if part.filename.endswith(".pkl")]
            if not plain or any(part.file_size > PICKLE_BYTES for part in plain):
                raise KineticError(f"{damaged}: its table of contents is missing or too large")
            broken = archive.testzip()
    except KineticError:
        raise
    except Exception as error:  # whatever zipfile makes of bytes that are no zip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KineticError(f"{damaged}: {reason}") from None
    if broken is not None:
        raise KineticError(f"{damaged}: the bytes of {broken} are not those that were written; use another checkpoint")


def write_checkpoint(state: dict[str, Any], path: Path | str) -> None:
    """Write a checkpoint beside its place and rename it."""
    with replacing(path) as beside:
        try:
            torch.save(state, beside)
        except RuntimeError as error:  # how torch's zip writer reports a full disk
            raise OSError(28, f"cannot write {path}: {str(error).splitlines()[0]}") from None


def load_weights(net: nn.Module, weights: dict[str, Any], *, source: str) -> None:
    """Load `weights` strictly; raises a one-line ValueError that names what does not fit."""
    clean = {name.replace(COMPILED, ""): value for name, value in weights.items()}
    tensors(clean, "weights", source)
    check_weights(net, clean, source=source)
    net.load_state_dict(clean)


def check_weights(net: nn.Module, weights: dict[str, Any], *, source: str, fix: str = OWN_RUN) -> None:
    """Raise a one-line ValueError, which ends in `fix`, unless `weights` has the names and shapes of `net`'s state."""
    own = net.state_dict()
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    differing = [n for n in own if n in weights and not _alike(own[n], weights[n])]
    if missing or unexpected or differing:
        first = (missing or unexpected or differing)[0]
        raise KineticError(
            f"{source} is of another architecture: {len(missing)} tensors missing, {len(unexpected)} unexpected, "
            f"{len(differing)} of another shape or kind, the first {first!r:.80}; {fix}"
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape, and both hold floats or both something else."""
    floats = one.is_floating_point() == other.is_floating_point() and one.is_complex() == other.is_complex()
    return one.shape == other.shape and floats


def load_network(
    path: Path | str,
    *,
    weights: Literal["ema", "raw"] | None = None,
    network: nn.Module | None = None,
    trust: Trust = STRANGER,
) -> LoadedNetwork:
    """Rebuild the network of a checkpoint that train.py wrote, or of an exported model.

    Args:
        path: the checkpoint file, or the folder of an exported model.
        weights: "ema", "raw", or None for the averaged ones where there are any.
        network: to load the weights into, where the checkpoint does not name the network's class.
        trust: which class the checkpoint may name.
    """
    state, source = read_exported(path) if Path(path).is_dir() else read_checkpoint(path), f"checkpoint {path}"
    check_checkpoint(state, source)
    which, chosen = chosen_weights(state["state_dict"], weights, path)
    if network is None:
        network = network_of(_network_config(state, path), chosen, source=source, trust=trust)
    load_weights(network, chosen, source=source)
    latents = state["kinetic"].get("latents")
    return LoadedNetwork(
        net=network.eval().requires_grad_(False),
        weights=which,
        hparams=state["hyper_parameters"],
        sample_shape=tuple(state["kinetic"]["sample_shape"]),
        step=state["global_step"],
        epoch=state["epoch"],
        class_names=tuple(state["kinetic"].get("class_names") or ()) or None,
        latents=None if latents is None else Latents.of(latents, source),
    )


def network_of(config: ClassConfig, weights: dict[str, Any], *, source: str, trust: Trust) -> nn.Module:
    """Build the network that a checkpoint names; one of ours without memory first, to see that it has these weights."""
    check_network(config, weights, source=source, trust=trust)
    network: nn.Module = build(config, base=nn.Module, home=NETWORKS, trust=trust)
    return network


def check_network(
    config: ClassConfig, weights: dict[str, Any], *, source: str, trust: Trust = STRANGER, fix: str = OWN_RUN
) -> None:
    """Raise KineticError where a network of ours that `config` names has other weights; it is built without memory."""
    settings: dict[str, Any] = {"base": nn.Module, "home": NETWORKS, "trust": trust}
    if str(config.get("class_path")).startswith(f"{NETWORKS}."):
        with torch.device("meta"), _at_most(len(weights), source):
            check_weights(build(config, **settings), weights, source=source, fix=fix)


@contextmanager
def _at_most(count: int, source: str) -> Iterator[None]:
    """Stop building a network that gets more parameters than there are weights for."""
    made = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += 1
        if made > 2 * count + 8:
            raise KineticError(
                f"{source} is of another architecture: it names a network of more than its {count} tensors"
            )

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def chosen_weights(
    named: dict[str, Tensor], weights: str | None, path: Path | str
) -> tuple[Literal["ema", "raw"], dict[str, Tensor]]:
    """The averaged ("ema") or raw weights of a checkpoint's `state_dict`, averaged ones by default, by their names."""
    averaged, raw = (any(name.startswith(prefix) for name in named) for prefix in PREFIXES.values())
    if weights == "ema" and not averaged:
        raise KineticError(f"checkpoint {path} holds no averaged weights; use --weights raw")
    if weights == "raw" and not raw:
        raise KineticError(f"checkpoint {path} holds averaged weights alone; use --weights ema")
    which: Literal["ema", "raw"] = "ema" if averaged and weights != "raw" else "raw"
    prefix = PREFIXES[which]
    return which, {n.removeprefix(prefix).replace(COMPILED, ""): v for n, v in named.items() if n.startswith(prefix)}


def _network_config(state: dict[str, Any], path: Path | str) -> ClassConfig:
    config = state["hyper_parameters"].get("network")
    if config is None:
        raise KineticError(f"checkpoint {path} was trained on a network passed as an object; pass it as network=")
    if not isinstance(config, dict):
        raise KineticError(f"checkpoint {path} is damaged: its network is a {type(config).__name__}, not a class")
    return config
