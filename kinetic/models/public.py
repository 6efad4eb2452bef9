"""Checkpoints that other projects publish: read without executing anything, told apart by their keys."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import Tensor

from kinetic.errors import KineticError
from kinetic.models.checkpoint import COMPILED, read_checkpoint
from kinetic.models.schema import KEYS, bounded, tensors

Kind = Literal["torchcfm", "flow_matching", "sit", "repa", "lightningdit"]
KINDS: tuple[Kind, ...] = get_args(Kind)
UNETS: tuple[Kind, ...] = ("torchcfm", "flow_matching")
UNET, TRANSFORMER = "input_blocks.0.0.weight", "x_embedder.proj.weight"  # a tensor that every file of a family has
SHADOW = "shadow_params."
SHOWN = 12  # keys in a message

Weights = dict[str, Tensor]


class Ambiguous(KineticError):
    """The keys of a file are those of two kinds."""


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """What is in a public checkpoint.

    Attributes:
        source: how the file is called in messages.
        kind: whose conventions it follows.
        averaged: averaged weights by their clean names; None where it has none, or does not say.
        raw: weights as trained, or those of a file that does not say which they are; None where it has none.
        settings: of its training as it wrote them down, plain values by name.
        step: updates it counts, 0 where it counts none.
        epoch: the same of epochs.
    """

    source: str
    kind: Kind
    averaged: Weights | None
    raw: Weights | None
    settings: dict[str, Any]
    step: int = 0
    epoch: int = 0

    @property
    def weights(self) -> Weights:
        """The averaged weights where there are any, else those that there are."""
        return cast(Weights, self.raw if self.averaged is None else self.averaged)


def read_public(path: Path | str, *, like: str | None = None) -> PublicFile:
    """Read a public checkpoint, of the kind `like` or the one that its keys show; KineticError where it is of none."""
    if like is not None and like not in KINDS:
        raise KineticError(f"unknown kind {like!r:.60}; choose from {', '.join(KINDS)}")
    source = f"checkpoint {path}"
    state = read_checkpoint(path, allowed=(argparse.Namespace,), mapped=True)
    state = {key: vars(value) if isinstance(value, argparse.Namespace) else value for key, value in state.items()}
    bounded(state, source)
    averaged, raw = _found(state, source)
    kind = _checked(cast(Kind, like), averaged or raw, source) if like else _recognised(state, averaged or raw, source)
    settings: dict[str, Any] = next((state[key] for key in ("args", "config") if isinstance(state.get(key), dict)), {})
    return PublicFile(
        source=source,
        kind=kind,
        averaged=averaged,
        raw=raw,
        settings=settings,
        step=_count(state.get("steps")),  # torchcfm's `step` adds up positions within epochs
        epoch=_count(state.get("epoch")),
    )


def kind_of(path: Path | str) -> str | None:
    """The kind of a file that `read_public` would take, in words; None of any other."""
    try:
        return read_public(path).kind
    except Ambiguous:
        return "sit or repa"
    except (KineticError, OSError):
        return None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else 0


def _found(state: dict[str, Any], source: str) -> tuple[Weights | None, Weights | None]:
    """The averaged weights in a file, and those as trained, each None where there are none."""
    if not set(KEYS) - set(state):
        raise KineticError(f"{source} was written by train.py: sample from it as it is, with --checkpoint")
    for ema, net in (("ema_model", "net_model"), ("ema", "model")):
        if isinstance(state.get(ema), Mapping) or isinstance(state.get(net), Mapping):
            averaged, raw = (_clean(state.get(name), f"{source}, {name}") for name in (ema, net))
            if raw is not None and any(name.startswith(SHADOW) for name in raw):
                return _shadows(raw, source)
            return averaged, raw
    if state and all(isinstance(value, Tensor) for value in state.values()):
        return None, _clean(state, source)
    raise _unknown(state, source)


def _clean(found: Any, source: str) -> Weights | None:
    """Weights under the names that their network gave them, without those of wrappers; None where there are none."""
    if not isinstance(found, Mapping) or not found:
        return None
    kept = {name: value for name, value in found.items() if name != "num_updates"}
    tensors(kept, "weights", source)
    clean: Weights = {}
    for name, value in kept.items():
        short = re.sub(r"^(module\.)+", "", name.replace(COMPILED, ""))
        if short in clean:
            raise KineticError(f"{source} has two tensors called {short!r:.80}, with and without a prefix")
        clean[short] = value
    return clean


def _shadows(found: Weights, source: str) -> tuple[Weights, Weights]:
    """Names for averaged weights that are numbered by the order of the parameters, in which the raw ones stand too."""
    names = [name for name in found if name.startswith("model.")]
    shadows = {name.removeprefix(SHADOW): value for name, value in found.items() if name.startswith(SHADOW)}
    if set(shadows) != {str(number) for number in range(len(names))}:
        raise KineticError(f"{source} has {len(shadows)} averaged tensors (shadow_params) for {len(names)} parameters")
    raw = _clean({name.removeprefix("model."): found[name] for name in names}, source) or {}
    averaged = {name: shadows[str(number)] for number, name in enumerate(raw)}
    unlike = next((name for name, value in raw.items() if averaged[name].shape != value.shape), None)
    if unlike is not None:
        raise KineticError(f"{source}: the averaged tensor of {unlike!r:.80} has another shape; they are out of order")
    return averaged, raw


def _recognised(state: dict[str, Any], weights: Weights | None, source: str) -> Kind:
    """The kind of a file, by its keys and the names of its weights."""
    names = weights or {}
    if UNET in names:
        if "net_model" in state or "ema_model" in state:
            return "torchcfm"
        theirs = "lr_schedule" in state or "scaler" in state or _is_scaled(names)
        return "flow_matching" if theirs else "torchcfm"
    if TRANSFORMER in names:
        return _transformer(state, names, source)
    raise _unknown(names or state, source)


def _transformer(state: dict[str, Any], names: Weights, source: str) -> Kind:
    if "blocks.0.norm1.weight" in names or "blocks.0.mlp.w12.weight" in names or "feat_rope.freqs_cos" in names:
        return "lightningdit"
    if any(name.startswith(("projectors.", "decoder_blocks.")) for name in names) or "steps" in state:
        return "repa"
    inputs = names[TRANSFORMER].shape[1:].numel()
    if _rows(names, "final_layer.linear.weight") == 2 * inputs:  # it learned a variance as well
        return "sit"
    raise Ambiguous(f"{source} may be of sit or of repa, whose time runs the other way: say which with --like")


def _is_scaled(names: Weights) -> bool:
    """Whether the embedding of a UNet scales and shifts, for which it has two numbers a channel."""
    emb, conv = (_rows(names, f"input_blocks.1.0.{part}.weight") for part in ("emb_layers.1", "out_layers.3"))
    return emb == 2 * conv > 0


def _rows(names: Weights, name: str) -> int:
    """Length of a tensor's first axis, 0 where there is none."""
    return names[name].shape[0] if name in names and names[name].ndim else 0


def _checked(kind: Kind, weights: Weights | None, source: str) -> Kind:
    """The kind that a person named, unless the file is of the other family of networks."""
    needed = UNET if kind in UNETS else TRANSFORMER
    if needed not in (weights or {}):
        raise KineticError(f"{source} is not of {kind}: it lacks {needed}; it has {_listed(weights or {})}")
    return kind


def _unknown(found: Mapping[str, Any], source: str) -> KineticError:
    return KineticError(f"{source} is of no known kind ({', '.join(KINDS)}); its keys are {_listed(found)}")


def _listed(found: Mapping[str, Any]) -> str:
    more = f", ... {len(found):,} in all" if len(found) > SHOWN else ""
    return ", ".join(f"{key!s:.60}" for key in list(found)[:SHOWN]) + more if found else "none"
