"""What a scheduler of diffusers needs to measure and to shape: one class, to stand before theirs among the bases."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.energy import STANDARD, Gains
from kinetic.flow.measures import Evaluation, Measure
from kinetic.flow.sampling import shaping_named
from kinetic.flow.shaping import KTS
from kinetic.flow.trajectory import Trajectory
from kinetic.models.watching import Watch

SETTINGS = ("kts", "tau", "tau_steps", "average_gain")  # what a configuration holds beside theirs
SLACK = 1e-5  # of sigmas, which are float32
log = logging.getLogger(__name__)

Rules = Mapping[str, tuple[Any, str]]  # {option of the configuration: (value, what is amiss)}


class Following:
    """A scheduler that measures the motion and scales it by η(t), where t = 1 - σ.

    Beside the arguments of the scheduler it stands before it takes, and keeps in its configuration:

    Args:
        kts: name of a preset, a KTS, or what `KTS.to_dict` gives.
        tau: where launch turns into landing, as a time t in (0, 1); None leaves that of `kts`.
        tau_steps: the same as a fraction of the steps, which a shifted grid spends at small t; in (0, 1).
        average_gain: whether a step of Euler's takes the mean of the gain over it, in closed form (else η where it
            starts); methods of order two are such in their last step alone, and take η at their evaluations before.

    Attributes:
        measures: what is measured; may be set to others before a call.
    """

    stock: ClassVar[Any]  # the class of diffusers
    trapezoid: ClassVar[bool] = False  # whether a step's end is evaluated, too
    needed: ClassVar[Rules] = MappingProxyType({})  # options that have to have a value
    refused: ClassVar[Rules] = MappingProxyType({})  # options that must not have one
    measures: tuple[Measure, ...] = (*STANDARD, Gains())
    step_index: Any
    sigmas: Tensor

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        found = next((base for base in cls.__mro__ if base.__module__.split(".")[0] == "diffusers"), None)
        if found is not None and not hasattr(cls, "stock"):
            cls.stock = found
            for name in ("__init__", "set_timesteps", "step"):
                setattr(cls, name, _signed(getattr(cls, name), getattr(found, name), more=name == "__init__"))

    def __init__(
        self,
        *args: Any,
        kts: str | dict[str, Any] | KTS = "off",
        tau: float | None = None,
        tau_steps: float | None = None,
        average_gain: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._check()
        if tau is not None and tau_steps is not None:
            raise KineticError("tau and tau_steps say the same; give one, and None for the other")
        if tau_steps is not None and not 0 < tau_steps < 1:
            raise KineticError(f"tau_steps is a fraction of the steps, strictly between 0 and 1, got {tau_steps}")
        made = shaping_named(kts)
        self.kts = made if tau is None else replace(made, tau=tau)
        self.tau_steps, self.average_gain = tau_steps, average_gain
        self._watch: Watch | None = None
        self._times: list[float] = []
        self.bounds: list[float] = []  # times at which the steps of the call begin, and the end
        kept = {"kts": self.kts.to_dict(), "tau": None, "tau_steps": tau_steps, "average_gain": average_gain}
        self.register_to_config(**kept)  # type: ignore[attr-defined]

    def _check(self) -> None:
        """Raise KineticError where the configuration is not that of an ODE of a flow."""
        config = self.config  # type: ignore[attr-defined]
        needed = [(name, why) for name, (value, why) in self.needed.items() if config[name] != value]
        wrong = needed + [(name, why) for name, (value, why) in self.refused.items() if config.get(name) == value]
        if wrong:
            name, why = wrong[0]
            raise KineticError(f"{type(self).__name__} follows flows, and {name}={config[name]!r} {why}")

    @property
    def trajectory(self) -> Trajectory:
        """What was measured in the latest call, or so far in one that goes on; a step counts as one evaluation.

        It can be read in `callback_on_step_end`. Raises KineticError before the first step.
        """
        if self._watch is None or self._watch.x is None:
            raise KineticError("nothing has been drawn yet: call the pipeline first")
        return self._watch.trajectory()

    @property
    def coverage(self) -> str:
        """Which times the steps of the latest call cover, and how many fall on each side of τ."""
        if not self.bounds:
            raise KineticError("nothing has been drawn yet: call the pipeline first")
        steps, tau, late = len(self.bounds) - 1, self.kts.tau, self._late()
        across = any(start < tau - SLACK and end > tau + SLACK for start, end in pairwise(self.bounds))
        reach = ", the last of them past it" if across else ""
        interval = f"{steps} steps over t in [{self.bounds[0]:.3g}, {self.bounds[-1]:.3g}]"
        return f"{interval}: {steps - late} begin before τ = {tau:.3g}{reach}, {late} from it on"

    def _late(self) -> int:
        """How many steps begin from τ on."""
        return sum(start >= self.kts.tau - SLACK for start in self.bounds[:-1])

    def set_timesteps(self, *args: Any, **kwargs: Any) -> Any:
        """Choose the steps of the next call."""
        self._watch = None
        return super().set_timesteps(*args, **kwargs)  # type: ignore[misc]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take a step by what the network predicts, scaled by the gain, and measure it."""
        self._refuse(model_output, timestep, sample, *args, **kwargs)
        if self._watch is None or self.step_index is None:
            self._begin(timestep)
        start, end, second = self._step(self._times, self.step_index)
        now = self._evaluation(model_output, sample, start, end, second=second)
        self._tell(now, end, second=second)
        shaped = model_output if now.gain == 1 else now.gain * _wide(model_output)  # bf16 holds no gain of 1.005
        found = super().step(shaped, timestep, sample, *args, **kwargs)  # type: ignore[misc]
        x = found[0].to(self._dtype(model_output, sample))
        assert self._watch is not None
        self._watch.x = x.detach()
        if isinstance(found, tuple):
            return (x, *found[1:])
        found.prev_sample = x
        return found

    def _refuse(self, *args: Any, **kwargs: Any) -> None:
        """Raise KineticError for what makes a step no step of an ODE for each sample."""
        given = inspect.signature(self.stock.step).bind(self, *args, **kwargs).arguments
        if given.get("per_token_timesteps") is not None:
            raise KineticError("per_token_timesteps: tokens at times of their own have no energy of a sample")
        if given.get("s_churn", 0) > 0 and self.trapezoid:  # Euler's scheduler ignores it
            raise KineticError(f"s_churn={given['s_churn']} adds noise to an ODE that is measured; leave it out")

    def _begin(self, timestep: Any) -> None:
        """Begin a call: read the times once, which may lie on a device, and find τ."""
        if self.step_index is None:
            try:
                self._init_step_index(timestep)  # type: ignore[attr-defined]
            except IndexError:
                raise KineticError(f"{timestep} is none of the scheduler's timesteps") from None
        sigmas = self.sigmas.tolist()
        inverted = self._inverted
        times = [round(sigma if inverted else 1 - sigma, 7) for sigma in sigmas]  # a σ of 0.4 in float32 is t = 0.6
        if min(times) < -SLACK or max(times) > 1 + SLACK or any(b < a - SLACK for a, b in pairwise(times)):
            raise KineticError("the sigmas of a flow fall within [0, 1], and these do not: use other options for them")
        self._times = [min(max(t, 0.0), 1.0) for t in times]
        begin = self._step(self._times, self.step_index)[0]
        self.bounds = [t for t in self._bounds(self._times) if t >= begin]
        if self.tau_steps is not None:
            self.kts = replace(self.kts, tau=self._tau_by_steps(self.tau_steps))
        self._watch = Watch(tau=self.kts.tau, measures=self.measures)
        log.info(self.coverage)
        if self.kts.beta > 0 and not self.average_gain and not self._late():
            log.warning("the landing does nothing, %s; use average_gain=True, or tau_steps", self.coverage)

    def _tau_by_steps(self, fraction: float) -> float:
        steps = len(self.bounds) - 1
        if steps < 2:
            raise KineticError("tau_steps needs at least two steps; give tau as a time instead")
        return self.bounds[min(max(round(fraction * steps), 1), steps - 1)]

    @property
    def _inverted(self) -> bool:
        return bool(self.config.get("invert_sigmas", False))  # type: ignore[attr-defined]

    def _bounds(self, times: list[float]) -> list[float]:
        """The times at which steps begin and the last one ends, of those that the scheduler lists."""
        return times

    def _step(self, times: list[float], index: int) -> tuple[float, float, bool]:
        """Where the present step begins and ends, and whether this is its second evaluation, at its end."""
        return times[index], times[index + 1], False

    def _averages(self, end: float) -> bool:
        """Whether the step to `end` takes the mean of the gain: one of Euler's, as the last step always is."""
        return self.average_gain and (not self.trapezoid or end == self.bounds[-1])

    def _dtype(self, output: Tensor, sample: Tensor) -> torch.dtype:
        """The type of what their `step` returns, given what the network predicts and the sample."""
        return output.dtype

    def _evaluation(self, output: Tensor, sample: Tensor, start: float, end: float, *, second: bool) -> Evaluation:
        t = end if second else start
        gain = self.kts.mean_gain(start, end) if self._averages(end) else self.kts.gain(t)
        v = _wide(output.detach())
        return Evaluation(t=t, x=_wide(sample.detach()), v=v if self._inverted else -v, gain=gain)

    def _tell(self, now: Evaluation, end: float, *, second: bool) -> None:
        watch = self._watch
        assert watch is not None
        if second:
            watch.close(now)
            return
        if self.trapezoid:  # the step before ends here, under the gain of this time whatever the next one takes
            ends = Evaluation(t=now.t, x=now.x, v=now.v, gain=self.kts.gain(now.t))
            watch.close(ends, counted=False)
        watch.begin(now, end)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _signed(ours: Callable[..., Any], theirs: Callable[..., Any], *, more: bool) -> Callable[..., Any]:
    """Give a method of ours the signature of theirs, which pipelines and configurations read; `more`: and settings."""

    @wraps(ours)
    def same(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self, *args, **kwargs)

    signature = inspect.signature(theirs)
    if more:
        own = [p for name, p in inspect.signature(ours).parameters.items() if name in SETTINGS]
        signature = signature.replace(parameters=[*signature.parameters.values(), *own])
    same.__signature__ = signature  # type: ignore[attr-defined]
    return same
