"""Schedulers for the flow models of diffusers that measure each call of a pipeline, and shape it.

`watch(pipe, kts="balanced")` puts one into a pipeline; after a call `pipe.scheduler.trajectory` is the `Trajectory`.
Each is a subclass of a scheduler of theirs that scales what the network predicts by the gain and hands it on, so that
everything else, from `sigmas` to dynamic shifts, is theirs. Needs the extra `diffusers`. To load a pipeline that was
saved with one, import this module first: diffusers looks a class up in modules that are imported, no others.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

try:
    from diffusers import (
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
        SchedulerMixin,  # noqa: F401  diffusers finds out here that the classes are schedulers
        UniPCMultistepScheduler,
    )
except ModuleNotFoundError as error:
    remedy = "uv sync --extra diffusers, or pip install kinetic-flow[diffusers]"
    raise ImportError(f"kinetic.models.diffusers needs the extra ({error}): {remedy}") from None

from kinetic.errors import KineticError
from kinetic.flow.shaping import KTS
from kinetic.models.following import SETTINGS, Following, Rules


class KineticFlowMatchEulerScheduler(Following, FlowMatchEulerDiscreteScheduler):
    """Euler's method, of Stable Diffusion 3, Flux, Qwen-Image and most others: energies by the left rule."""

    refused: ClassVar[Rules] = {"stochastic_sampling": (True, "jumps between noises, along no path that has an energy")}


class KineticFlowMatchHeunScheduler(Following, FlowMatchHeunDiscreteScheduler):
    """Heun's method, whose last step is Euler's: energies by the trapezoid, but for that step."""

    trapezoid = True

    def _bounds(self, times: list[float]) -> list[float]:
        return [*times[::2], times[-1]]  # each time but the first and the last stands there twice

    def _step(self, times: list[float], index: int) -> tuple[float, float, bool]:
        first = self.dt is None  # type: ignore[attr-defined]
        start = index if first else index - 1
        return times[start], times[start + 1], not first


FLOW: Rules = {
    "prediction_type": ("flow_prediction", "is that of no flow model"),
    "use_flow_sigmas": (True, "is that of no flow model"),
}


class KineticUniPCMultistepScheduler(Following, UniPCMultistepScheduler):
    """UniPC, of Wan, for networks that predict a flow: energies by the trapezoid, in the last step by the left rule."""

    trapezoid = True
    needed: ClassVar[Rules] = FLOW
    refused: ClassVar[Rules] = {"thresholding": (True, "moves samples off the path of the field")}

    def _dtype(self, output: Tensor, sample: Tensor) -> torch.dtype:
        return sample.dtype


class KineticDPMSolverMultistepScheduler(Following, DPMSolverMultistepScheduler):
    """DPM-Solver++, of Sana, for networks that predict a flow: energies as with UniPC."""

    trapezoid = True
    needed: ClassVar[Rules] = {**FLOW, "algorithm_type": ("dpmsolver++", "follows no ODE of a flow")}
    refused: ClassVar[Rules] = {"thresholding": (True, "moves samples off the path of the field")}

    def _dtype(self, output: Tensor, sample: Tensor) -> torch.dtype:
        return torch.promote_types(output.dtype, sample.dtype)


KINDS: dict[type, type[Following]] = {
    kind.stock: kind
    for kind in (
        KineticFlowMatchEulerScheduler,
        KineticFlowMatchHeunScheduler,
        KineticUniPCMultistepScheduler,
        KineticDPMSolverMultistepScheduler,
    )
}


def watch(
    pipe: Any,
    kts: str | dict[str, Any] | KTS = "off",
    *,
    tau: float | None = None,
    tau_steps: float | None = None,
    average_gain: bool = True,
) -> Any:
    """Put the scheduler that measures and shapes into a pipeline in the place of its own, and return it.

    Settings are those of `Following`. A pipeline that is watched already gets the new ones. `unwatch` undoes it.
    Raises KineticError for a pipeline whose scheduler follows no flow.
    """
    found: Any = getattr(pipe, "scheduler", None)
    kind: Any = type(found) if isinstance(found, Following) else KINDS.get(type(found))
    if kind is None:
        what = f"a {type(pipe).__name__} without one" if found is None else f"{type(found).__name__}"
        known = ", ".join(stock.__name__ for stock in KINDS)
        raise KineticError(f"watch needs a pipeline whose scheduler follows a flow ({known}), got {what}")
    settings = {"kts": kts, "tau": tau, "tau_steps": tau_steps, "average_gain": average_gain}
    pipe.scheduler = kind.from_config(found.config, **settings)
    return pipe.scheduler


def unwatch(pipe: Any) -> None:
    """Put the scheduler of diffusers back, so that the pipeline can be saved for those who have no Kinetic."""
    found = getattr(pipe, "scheduler", None)
    if isinstance(found, Following):
        config = {name: value for name, value in found.config.items() if name not in SETTINGS}  # type: ignore[attr-defined]
        pipe.scheduler = found.stock.from_config(config)
