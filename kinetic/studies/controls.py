"""What a shaped setting has to beat: unshaped samples with equal noise added, and the unshaped flow stopped early."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.tensors import expand, seed_from, seeded_noise

STOPS = (0.98, 0.97)
NOISE = 0xC0  # keeps this noise apart from the noise that samples start from


def stopped(sampler: Sampler, end: float) -> Sampler:
    """Make an unshaped `sampler` stop at t = `end` in (τ, 1), at the times it visits before."""
    tau = sampler.kts.tau
    if not tau < end < 1:
        raise KineticError(f"a flow can be stopped between tau = {tau:g} and 1, got {end:g}")
    times = [t for t in sampler.times() if t < end - 1e-9]
    return replace(sampler, grid=(*times, end), end=end)


def noised(x: Tensor, distance: Tensor, seeds: Sequence[int]) -> Tensor:
    """Move samples `x` [N, ...] by `distance` [N] in directions that are uniform and a function of the seed alone."""
    noise = seeded_noise([seed_from(seed, NOISE) for seed in seeds], x.shape[1:])
    return x + noise * expand(distance / noise.flatten(1).norm(dim=1), x)
