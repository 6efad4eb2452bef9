"""Going on with a run: what may change, and how a changed learning rate or schedule takes effect."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kinetic.build import ClassConfig
from kinetic.errors import KineticError, refusing
from kinetic.training.optimizers import ADAM, make_optimizer
from kinetic.trust import Trust

Change = tuple[str, Any, Any]  # key, what it was, what it is
KEPT = ("seed_everything", "network", "data", "model.path", "optimizer.class_path", "trainer.accumulate_grad_batches")
# What may change all the same: where data lie and how they are read, and what is done to a network while it learns.
FREE = {
    *(f"data.init_args.{name}" for name in ("path", "test_path", "train", "test", "root", "download", "num_workers")),
    *(f"data.init_args.{name}" for name in ("cache", "num_val")),
    *(f"network.init_args.{name}" for name in ("dropout", "class_dropout")),
}


def changes(old: Any, new: Any, at: str = "") -> Iterator[Change]:
    """What differs between two configurations, in settings that both have."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("class_path") != new.get("class_path"):
            yield f"{at}.class_path", old.get("class_path"), new.get("class_path")
            return
        for key in old:
            if key in new:
                yield from changes(old[key], new[key], f"{at}.{key}" if at else str(key))
    elif old != new:
        yield at, old, new


def check_changes(found: Iterable[Change]) -> list[str]:
    """Put changes into words; KineticError where one of them would make it another run."""
    words = []
    for key, old, new in found:
        if key not in FREE and any(key == name or key.startswith(f"{name}.") for name in KEPT):
            raise KineticError(
                f"--resume keeps {key}, which is {_short(old)} in the run, not {_short(new)}; leave it out, or start a "
                "new run without --resume"
            )
        words.append(f"{key} is {_short(new)} from now on (it was {_short(old)})")
    return words


def carry_over(
    state: dict[str, Any],
    parameters: Iterable[nn.Parameter],
    *,
    optimizer: ClassConfig | None,
    scheduler: ClassConfig | None,
    warmup_steps: int,
    trust: Trust,
) -> None:
    """Make the settings that are given now hold in the checkpoint `state`, in place; KineticError where they cannot.

    Moments and other states of the optimiser stay. Its options, the schedule and the warm-up are those given, as far
    on as the checkpoint is: the learning rate is what it would be had they held from the start.
    """
    trained = list(parameters)
    _check_states(state, trained, optimizer, trust)
    before = state["hyper_parameters"]
    same = (optimizer or ADAM) == (before.get("optimizer") or ADAM) and scheduler == before.get("scheduler")
    if same and warmup_steps == before.get("warmup_steps", 0):
        return
    made, schedule = make_optimizer(trained, optimizer, scheduler, warmup_steps=warmup_steps, trust=trust)
    with refusing("the schedule"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not told of the optimiser's steps
        for _ in range(state["global_step"] if schedule is not None else 0):
            schedule.step()  # type: ignore[union-attr]
    options = {key: value for key, value in made.param_groups[0].items() if key != "params"}
    for group in state["optimizer_states"][0]["param_groups"]:
        group.update(options)
    state["lr_schedulers"] = [] if schedule is None else [schedule.state_dict()]


def _check_states(state: dict[str, Any], trained: list[nn.Parameter], config: ClassConfig | None, trust: Trust) -> None:
    """Raise KineticError unless the optimiser's states are those of these parameters."""
    found = state["optimizer_states"][0]
    numbers = [n for group in found["param_groups"] for n in group["params"]]
    wanted = _names_of_state(config, trust) if state["global_step"] else None
    fits = numbers == list(range(len(trained))) and all(key in numbers for key in found["state"])
    for number, one in found["state"].items() if fits else ():
        shapes = {value.shape for value in one.values() if isinstance(value, Tensor) and value.numel() != 1}
        fits = fits and all(shape == trained[number].shape for shape in shapes)
    if fits and wanted is not None:
        kept = [set(one) for one in found["state"].values()]  # a parameter without gradients has none
        fits = all(names == wanted for names in kept) and bool(kept) >= bool(wanted)
    if not fits:
        raise KineticError(
            "the state of the optimiser in the checkpoint is not that of this network under this optimiser: training "
            "cannot go on from it; sample from it, or start a new run"
        )


def _names_of_state(config: ClassConfig | None, trust: Trust) -> set[str] | None:
    """What an optimiser keeps for each parameter after a step; None where a step alone does not tell."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    try:
        made, _ = make_optimizer([parameter], config, trust=trust)
        made.step()
    except Exception:  # one that wants a closure, or more of its parameters
        return None
    return set(made.state.get(parameter, ()))


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
