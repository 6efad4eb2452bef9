"""Kinetic: what a flow-matching model does on the way from noise to data, measured and shaped.

`integrate` follows any velocity and measures its kinetic path energy; `KTS` shapes it; `draw` samples a network from
seeds; `from_pretrained` opens a model that was exported; `Field` says what a network is; a `Measure` is a number for
each sample, and yours is as good as ours; `EmpiricalVelocity` is the closed-form field of a training set. Training,
monitoring, studies and the command lines live in `kinetic.training`, `kinetic.callbacks`, `kinetic.studies` and
`kinetic.cli`, which need Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kinetic.errors import KineticError

if TYPE_CHECKING:
    from kinetic.flow.empirical import EmpiricalVelocity
    from kinetic.flow.energy import STANDARD
    from kinetic.flow.field import Field
    from kinetic.flow.guidance import guided
    from kinetic.flow.integration import Solver, integrate
    from kinetic.flow.measures import Measure, Rate
    from kinetic.flow.sampling import Sampler, draw
    from kinetic.flow.shaping import KTS, shaped
    from kinetic.flow.trajectory import Trajectory
    from kinetic.memorization.detectors import posterior, renoise
    from kinetic.models.exporting import from_pretrained

__all__ = [
    "KTS",
    "STANDARD",
    "EmpiricalVelocity",
    "Field",
    "KineticError",
    "Measure",
    "Rate",
    "Sampler",
    "Solver",
    "Trajectory",
    "draw",
    "from_pretrained",
    "guided",
    "integrate",
    "posterior",
    "renoise",
    "shaped",
]


PLACES = {  # where a name lies: torch is imported when it is first asked for, so that a command can answer at once
    "EmpiricalVelocity": "kinetic.flow.empirical",
    "Field": "kinetic.flow.field",
    "KTS": "kinetic.flow.shaping",
    "Measure": "kinetic.flow.measures",
    "Rate": "kinetic.flow.measures",
    "STANDARD": "kinetic.flow.energy",
    "Sampler": "kinetic.flow.sampling",
    "Solver": "kinetic.flow.integration",
    "Trajectory": "kinetic.flow.trajectory",
    "draw": "kinetic.flow.sampling",
    "from_pretrained": "kinetic.models.exporting",
    "guided": "kinetic.flow.guidance",
    "integrate": "kinetic.flow.integration",
    "posterior": "kinetic.memorization.detectors",
    "renoise": "kinetic.memorization.detectors",
    "shaped": "kinetic.flow.shaping",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'kinetic' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return __all__
