"""Checkpoints: written whole, read without executing anything from them, and turned back into networks."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from kinetic.build import ClassConfig, build
from kinetic.errors import KineticError
from kinetic.store.files import replacing

COMPILED = "_orig_mod."
KEYS = {"state_dict", "hyper_parameters", "global_step", "kinetic"}


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A network with the weights of a checkpoint, in evaluation mode.

    Attributes:
        net: called as net(x, t, labels).
        weights: which weights it has, averaged ("ema") or as trained ("raw").
        hparams: the settings of the training module, plain types.
        sample_shape: of one sample, without the batch axis.
        step: optimiser steps taken, and `epoch` the epoch.
    """

    net: nn.Module
    weights: Literal["ema", "raw"]
    hparams: dict[str, Any]
    sample_shape: tuple[int, ...]
    step: int
    epoch: int


def read_checkpoint(path: Path | str, *, device: torch.device | str = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain types; raises ValueError on anything else, executing nothing.

    With `mmap` tensors are read from the disk only when they are used.
    """
    path = Path(path)
    if not path.is_file():
        raise KineticError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise KineticError(f"checkpoint {path} is refused, it holds more than weights: {reason}") from None
    except (RuntimeError, EOFError, KeyError, UnicodeDecodeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise KineticError(f"checkpoint {path} cannot be read, it is damaged or no checkpoint: {reason}") from None
    if not isinstance(state, dict):
        raise KineticError(f"checkpoint {path} holds a {type(state).__name__}, not a dictionary")
    return state


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
    check_weights(net, clean, source=source)
    net.load_state_dict(clean)


def check_weights(net: nn.Module, weights: dict[str, Any], *, source: str) -> None:
    """Raise a one-line ValueError unless `weights` has the names and shapes of `net`'s state."""
    own = net.state_dict()
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    differing = [n for n in own if n in weights and own[n].shape != weights[n].shape]
    if missing or unexpected or differing:
        first = (missing or unexpected or differing)[0]
        raise KineticError(
            f"{source} is of another architecture: {len(missing)} tensors missing, {len(unexpected)} unexpected, "
            f"{len(differing)} of another shape, the first {first!r}; use the configuration of its own run"
        )


def trained_steps(path: Path | str) -> int:
    """Number of optimiser steps behind a checkpoint that train.py wrote."""
    state = read_checkpoint(path, mmap=True)
    _check_keys(state, path)
    return int(state["global_step"])


def load_network(
    path: Path | str,
    *,
    weights: Literal["ema", "raw"] | None = None,
    network: nn.Module | None = None,
    packages: tuple[str, ...] = ("kinetic",),
) -> LoadedNetwork:
    """Rebuild the network of a checkpoint that train.py wrote.

    Args:
        path: the checkpoint file.
        weights: "ema", "raw", or None for the averaged ones where there are any.
        network: to load the weights into, where the checkpoint does not name the network's class.
        packages: from which the class named by the checkpoint may be imported.
    """
    state = read_checkpoint(path)
    _check_keys(state, path)
    prefix, which = _prefix(state["state_dict"], weights, path)
    if network is None:
        network = build(_network_config(state, path), base=nn.Module, packages=packages)
    chosen = {n.removeprefix(prefix): v for n, v in state["state_dict"].items() if n.startswith(prefix)}
    load_weights(network, chosen, source=f"checkpoint {path}")
    return LoadedNetwork(
        net=network.eval().requires_grad_(False),
        weights=which,
        hparams=state["hyper_parameters"],
        sample_shape=tuple(state["kinetic"]["sample_shape"]),
        step=int(state["global_step"]),
        epoch=int(state["epoch"]),
    )


def _check_keys(state: dict[str, Any], path: Path | str) -> None:
    lacking = sorted(KEYS - set(state))
    if lacking:
        raise KineticError(f"checkpoint {path} was not written by train.py: it lacks {', '.join(lacking)}")


def _prefix(names: dict[str, Any], weights: str | None, path: Path | str) -> tuple[str, Literal["ema", "raw"]]:
    averaged = any(name.startswith("ema.network.") for name in names)
    if weights == "ema" and not averaged:
        raise KineticError(f"checkpoint {path} holds no averaged weights; use --weights raw")
    return ("ema.network.", "ema") if averaged and weights != "raw" else ("net.", "raw")


def _network_config(state: dict[str, Any], path: Path | str) -> ClassConfig:
    config = state["hyper_parameters"].get("network")
    if config is None:
        raise KineticError(f"checkpoint {path} was trained on a network passed as an object; pass it as network=")
    return config
