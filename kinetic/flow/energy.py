"""Kinetic path energy as further components of the ODE state (Li et al., 2026, arXiv 2602.07928).

The solver integrates the state `(x, executed energy, field energy)`, so measuring costs no evaluation of the network
and an energy has the order of the solver: Euler gives exactly the left Riemann sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.tensors import squared_norm

State = tuple[Tensor, ...]


def power(v: Tensor) -> Tensor:
    """Return ½‖v‖² of each row: [B, ...] -> [B], a sum over dimensions, in float32 or wider."""
    return 0.5 * squared_norm(v)


def initial_state(x0: Tensor, *, measure: bool = True) -> State:
    """Start at `x0` [B, ...] with no energy spent: `(x0, 0, 0)`, or `(x0,)` where nothing is measured."""
    zero = x0.new_zeros(x0.shape[0])
    return (x0, zero, zero) if measure else (x0,)


def state_rates(v: Tensor, field_power: Tensor, gain: Tensor | None) -> State:
    """Time derivative of the state for a field `v` [B, ...] of power `field_power` [B], executed as `gain * v`."""
    if gain is None:
        return v, field_power, field_power
    return gain * v, gain.square() * field_power, field_power


def motion_norm(state: State) -> Tensor:
    """Root mean square of x alone: the error norm of an adaptive solver, so that energies do not choose its steps."""
    return state[0].square().mean().sqrt()


@dataclass(frozen=True)
class Energies:
    """Energies of each path, [B], in the units of ‖x‖²; `early + late = energy`."""

    energy: Tensor  # ½ ∫ η²‖v‖² dt, of the motion that was executed
    field_energy: Tensor  # ½ ∫ ‖v‖² dt along the same path
    early: Tensor  # the part of `energy` before τ
    late: Tensor  # the part of `energy` after τ
    late_fraction: Tensor  # late / energy, in [0, 1]; NaN for a path that does not move


def split_energies(at_tau: State, at_end: State) -> Energies:
    """Read the energies off the states at τ and at the end; all NaN if they were not measured."""
    if len(at_end) == 1:
        nothing = at_end[0].new_full(at_end[0].shape[:1], torch.nan)
        return Energies(nothing, nothing, nothing, nothing, nothing)
    early, energy, field = at_tau[1], at_end[1], at_end[2]
    late = energy - early
    return Energies(energy, field, early, late, late / energy)
