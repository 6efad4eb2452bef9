"""Kinetic: what a flow-matching model does on the way from noise to data, measured and shaped.

`integrate` follows any velocity and measures its kinetic path energy; `KTS` shapes it; `draw` samples a network from
seeds; `EmpiricalVelocity` is the closed-form field of a training set. Training, monitoring and the command lines live
in `kinetic.training.module`, `kinetic.callbacks` and `kinetic.cli`, which need Lightning.
"""

from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.guidance import guided
from kinetic.flow.integration import Trajectory, integrate
from kinetic.flow.sampling import Sampler, draw, renoise
from kinetic.flow.shaping import KTS, shaped

__all__ = ["KTS", "EmpiricalVelocity", "Sampler", "Trajectory", "draw", "guided", "integrate", "renoise", "shaped"]
