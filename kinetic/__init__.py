"""Kinetic: what a flow-matching model does on the way from noise to data, measured and shaped.

`integrate` follows any velocity and measures its kinetic path energy; `KTS` shapes it; `draw` samples a network from
seeds; `from_pretrained` opens a model that was exported; `Field` says what a network is; a `Measure` is a number for
each sample, and yours is as good as ours; `EmpiricalVelocity` is the closed-form field of a training set. Training,
monitoring, studies and the command lines live in `kinetic.training`, `kinetic.callbacks`, `kinetic.studies` and
`kinetic.cli`, which need Lightning.
"""

from typing import TYPE_CHECKING, Any

from kinetic.errors import KineticError
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

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name == "from_pretrained":  # needs what reads data sets, and with it Lightning
        from kinetic.models.exporting import from_pretrained

        return from_pretrained
    raise AttributeError(f"module 'kinetic' has no attribute {name!r}")
