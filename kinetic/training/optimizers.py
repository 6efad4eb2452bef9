"""The optimiser and its learning-rate schedule, from a configuration."""

import inspect
from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from kinetic.build import ClassConfig, build, import_class
from kinetic.errors import KineticError
from kinetic.trust import STRANGER, Trust

HOME = "torch.optim"
ADAM: ClassConfig = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-4}}
STEPPING = {"fused", "foreach", "capturable", "differentiable"}  # how an optimiser steps


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    optimizer: ClassConfig | None = None,
    schedule: ClassConfig | None = None,
    *,
    warmup_steps: int = 0,
    fused: bool = True,
    trust: Trust = STRANGER,
) -> tuple[Optimizer, LRScheduler | None]:
    """Build an optimiser (Adam at 2e-4 by default) and a schedule counted in steps.

    The learning rate rises linearly over `warmup_steps` from 1/(warmup_steps + 1) of its value; `schedule` counts from
    there on. With `fused`, an optimiser that torch has in one kernel for a step is taken so, unless its own
    arguments say how it steps.
    """
    if warmup_steps < 0:
        raise KineticError(f"warmup_steps must be at least 0, got {warmup_steps}")
    config = optimizer or ADAM
    made = build(in_one_kernel(config, trust) if fused else config, parameters, base=Optimizer, home=HOME, trust=trust)
    after = None if schedule is None else build(schedule, made, base=LRScheduler, home=HOME, trust=trust)
    if isinstance(after, ReduceLROnPlateau):
        raise KineticError("ReduceLROnPlateau waits for a metric, but schedules here go by steps; choose another one")
    if warmup_steps == 0:
        return made, after
    warm_up = LinearLR(made, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
    if after is None:
        return made, warm_up
    return made, SequentialLR(made, [warm_up, after], milestones=[warmup_steps])


def in_one_kernel(config: ClassConfig, trust: Trust) -> ClassConfig:
    """Ask for the fused step of an optimiser that has one, unless its arguments say how it steps."""
    arguments = config.get("init_args") if isinstance(config, dict) else None
    if not isinstance(arguments or {}, dict) or STEPPING & set(arguments or {}) or "class_path" not in config:
        return config
    known = inspect.signature(import_class(config["class_path"], base=Optimizer, home=HOME, trust=trust)).parameters
    return {**config, "init_args": {**(arguments or {}), "fused": True}} if "fused" in known else config
