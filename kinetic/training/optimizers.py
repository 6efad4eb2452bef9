"""The optimiser and its learning-rate schedule, from a configuration."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from kinetic.build import ClassConfig, build
from kinetic.errors import KineticError
from kinetic.trust import STRANGER, Trust

HOME = "torch.optim"
ADAM: ClassConfig = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-4}}


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    optimizer: ClassConfig | None = None,
    schedule: ClassConfig | None = None,
    *,
    warmup_steps: int = 0,
    trust: Trust = STRANGER,
) -> tuple[Optimizer, LRScheduler | None]:
    """Build an optimiser (Adam at 2e-4 by default) and a schedule counted in steps.

    The learning rate rises linearly over `warmup_steps` from 1/(warmup_steps + 1) of its value; `schedule` counts from
    there on.
    """
    if warmup_steps < 0:
        raise KineticError(f"warmup_steps must be at least 0, got {warmup_steps}")
    made = build(optimizer or ADAM, parameters, base=Optimizer, home=HOME, trust=trust)
    after = None if schedule is None else build(schedule, made, base=LRScheduler, home=HOME, trust=trust)
    if isinstance(after, ReduceLROnPlateau):
        raise KineticError("ReduceLROnPlateau waits for a metric, but schedules here go by steps; choose another one")
    if warmup_steps == 0:
        return made, after
    warm_up = LinearLR(made, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
    if after is None:
        return made, warm_up
    return made, SequentialLR(made, [warm_up, after], milestones=[warmup_steps])
