"""What a checkpoint of train.py must look like: keys, types and ranges, checked once before anything is made of it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kinetic.data.latents import Latents
from kinetic.data.names import all_clean
from kinetic.errors import KineticError

KEYS = ("state_dict", "hyper_parameters", "global_step", "epoch", "kinetic")
FORMAT = 1
DEPTH = 60
VALUES = 1_000_000  # plain values beside the tensors
MOST = 2**62  # of a counter
AXES, SIDE = 5, 2**20  # of a sample
PLAIN = (type(None), bool, int, float, str, Tensor, torch.dtype, torch.device)
STEPS = "epoch_loop.automatic_optimization.optim_progress"


def check_checkpoint(state: dict[str, Any], source: str) -> None:
    """Raise KineticError unless `state`, called `source`, can be sampled from."""
    lacking = sorted(set(KEYS) - set(state))
    if lacking:
        raise KineticError(f"{source} was not written by train.py: it lacks {', '.join(lacking)}")
    bounded(state, source)
    tensors(state["state_dict"], "state_dict", source)
    hparams, own = state["hyper_parameters"], state["kinetic"]
    if not isinstance(hparams, dict) or not all(isinstance(name, str) for name in hparams):
        raise _wrong(source, "hyper_parameters", "settings by name", hparams)
    for name in ("global_step", "epoch"):
        if not _is_count(state[name]):
            raise _wrong(source, name, "a whole number of at least 0", state[name])
    if not isinstance(own, dict) or own.get("format") != FORMAT:
        raise _wrong(source, "kinetic", f"a record of format {FORMAT}", own)
    shape = own.get("sample_shape")
    if not (isinstance(shape, list) and 0 < len(shape) <= AXES and all(_is_count(n) and 0 < n <= SIDE for n in shape)):
        raise _wrong(source, "kinetic.sample_shape", "a list of sizes", shape)
    names = own.get("class_names")
    named = isinstance(names, list) and all(isinstance(name, str) for name in names) and all_clean(names)
    if names is not None and not named:
        raise _wrong(source, "kinetic.class_names", "a list of names of one line", names)
    if own.get("latents") is not None:
        Latents.of(own["latents"], source)


def check_resumable(state: dict[str, Any], source: str) -> None:
    """Raise KineticError unless training can go on from `state`: it needs optimiser, schedule and position too."""
    check_checkpoint(state, source)
    lacking = [name for name in ("optimizer_states", "lr_schedulers", "loops", "callbacks") if name not in state]
    if lacking:
        raise KineticError(
            f"{source} has no {', '.join(lacking)}: training cannot go on from it; sample from it, or start a new run"
        )
    for name in ("optimizer_states", "lr_schedulers"):
        if not (isinstance(state[name], list) and all(isinstance(one, dict) for one in state[name])):
            raise _wrong(source, name, "a list of states", state[name])
    if len(state["optimizer_states"]) != 1:
        raise _wrong(source, "optimizer_states", "the state of one optimiser", state["optimizer_states"])
    _check_optimizer(state["optimizer_states"][0], source)
    if not (isinstance(state["callbacks"], dict) and all(isinstance(key, str) for key in state["callbacks"])):
        raise _wrong(source, "callbacks", "states by name", state["callbacks"])
    _check_loops(state["loops"], state["global_step"], source)


def tensors(found: Any, name: str, source: str) -> None:
    """Raise KineticError unless `found` holds ordinary tensors by name, none larger than what is stored of it."""
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise _wrong(source, name, "tensors by name", found)
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise _wrong(source, f"{name}[{key!r:.60}]", "a tensor", value)
        _check_tensor(value, f"{name}[{key!r:.60}]", source)


def _check_tensor(value: Tensor, name: str, source: str) -> None:
    ordinary = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    if not ordinary or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise KineticError(f"{source} is damaged: {name} is larger than what is stored of it, or of an odd kind")


def _check_optimizer(found: dict[str, Any], source: str) -> None:
    groups, states = found.get("param_groups"), found.get("state")
    if not (isinstance(groups, list) and groups and all(isinstance(group, dict) for group in groups)):
        raise _wrong(source, "optimizer_states.param_groups", "groups of parameters", groups)
    for group in groups:
        rate = group.get("lr")
        finite = isinstance(rate, Tensor) or (isinstance(rate, int | float) and not isinstance(rate, bool))
        if not finite or not 0 <= float(rate) < math.inf:
            raise _wrong(source, "optimizer_states.param_groups.lr", "a rate of at least 0", rate)
        numbers = group.get("params")
        if not (isinstance(numbers, list) and all(_is_count(n) for n in numbers)):
            raise _wrong(source, "optimizer_states.param_groups.params", "numbers of parameters", numbers)
    if not isinstance(states, dict) or not all(isinstance(one, dict) for one in states.values()):
        raise _wrong(source, "optimizer_states.state", "a state for each parameter", states)
    for number, one in states.items():
        for key, value in one.items():
            if isinstance(value, Tensor):
                _check_tensor(value, f"optimizer_states.state[{number!r:.20}][{key!r:.40}]", source)


def _check_loops(loops: Any, step: int, source: str) -> None:
    fit = loops.get("fit_loop") if isinstance(loops, dict) else None
    if not isinstance(fit, dict):
        raise _wrong(source, "loops.fit_loop", "the position in training", fit)
    for name in ("epoch_progress", "epoch_loop.batch_progress", STEPS):
        if not isinstance(fit.get(name), dict):
            raise _wrong(source, f"loops.fit_loop.{name}", "a count of what was done", fit.get(name))
        for value in _leaves(fit[name]):
            if not isinstance(value, bool) and not _is_count(value):
                raise _wrong(source, f"loops.fit_loop.{name}", "counts of at least 0", value)
    try:
        taken = fit[STEPS]["optimizer"]["step"]["total"]["completed"]
    except (KeyError, TypeError):
        taken = None
    if taken != step:
        raise _wrong(source, "loops.fit_loop", f"a position at step {step}, as global_step says", taken)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    else:
        yield value


def bounded(state: Any, source: str) -> None:
    """Raise KineticError where plain values are too many, too deep, or of another type: before anything walks them."""
    waiting: list[tuple[Any, int]] = [(state, 0)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if seen > VALUES or depth > DEPTH:
            raise KineticError(f"{source} is damaged: it holds values without end")
        if isinstance(value, Mapping):
            waiting += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += [(inner, depth + 1) for inner in value]
        elif not isinstance(value, PLAIN):
            raise _wrong(source, "one of its values", "a plain one", value)
        if len(waiting) > VALUES:
            raise KineticError(f"{source} is damaged: it holds values without end")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _wrong(source: str, name: str, wanted: str, got: Any) -> KineticError:
    shown = (
        f"{got!r:.40}"
        if isinstance(got, int | float | str)
        else "nothing"
        if got is None
        else f"a {type(got).__name__}"
    )
    return KineticError(f"{source} is damaged: {name} should be {wanted}, and is {shown}")
