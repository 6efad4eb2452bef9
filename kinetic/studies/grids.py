"""Grids of settings of kinetic trajectory shaping: one axis at a time around a base, or all combinations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.flow.shaping import KTS

SHAPING = ("alpha", "beta", "tau", "launch", "landing")  # axes that are fields of the shaping
SOLVING = ("method", "steps", "grid")  # and of the solver: each has an unshaped flow of its own
AXES = (*SHAPING, *SOLVING)
OFF = "off"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings that share a solver, and so the unshaped flow that they are measured from, which is the first.

    Attributes:
        name: of the solver, as people read it.
        settings: samplers by name, `off` first.
    """

    name: str
    settings: dict[str, Sampler]


def groups_of(base: Sampler, axes: Mapping[str, Sequence[Any]], *, full: bool = False) -> list[Group]:
    """Arrange the settings around the shaped sampler `base`, that of `base` itself first.

    `axes` has values by name, see `AXES`; with `full` all their combinations are made. A setting that shaping refuses
    (a gain below zero) is a KineticError.
    """
    unknown = next((name for name in axes if name not in AXES), None)
    if unknown is not None:
        raise KineticError(f"no axis {unknown!r:.40}; choose from {', '.join(AXES)}")
    made: dict[tuple[Any, ...], Group] = {}
    for change in [{}, *(_combined(axes) if full else _single(axes))]:
        sampler = _changed(base, change)
        key = (sampler.method, sampler.steps, sampler.grid)
        off = replace(sampler, kts=KTS(tau=base.kts.tau))
        group = made.setdefault(key, Group(name=_solver_name(key), settings={OFF: off}))
        if not sampler.kts.is_off:
            group.settings[shaping_name(sampler.kts)] = sampler
    return list(made.values())


def values_of(sampler: Sampler) -> dict[str, Any]:
    """The value of a setting on every axis."""
    return {name: getattr(sampler.kts if name in SHAPING else sampler, name) for name in AXES}


def _single(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [{name: value} for name, values in axes.items() for value in values]


def _combined(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _changed(base: Sampler, change: Mapping[str, Any]) -> Sampler:
    kts = replace(base.kts, **{name: value for name, value in change.items() if name in SHAPING})
    return replace(base, kts=kts, **{name: value for name, value in change.items() if name in SOLVING})


def shaping_name(kts: KTS) -> str:
    """A short name that tells shapings apart: what differs from the default forms and τ is said."""
    parts = [f"α={kts.alpha:g}", f"β={kts.beta:g}"]
    usual = KTS()
    parts += [f"τ={kts.tau:g}"] if kts.tau != usual.tau else []
    parts += [f"{kts.launch} launch"] if kts.launch != usual.launch and kts.alpha else []
    parts += [f"{kts.landing} landing"] if kts.landing != usual.landing and kts.beta else []
    parts += [f"k={kts.k:g}"] if kts.k != usual.k else []
    return " ".join(parts)


def _solver_name(key: tuple[Any, ...]) -> str:
    method, steps, grid = key
    times = grid if isinstance(grid, str) else "given times"
    return f"{method} {steps} {times}"
