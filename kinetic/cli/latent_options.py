"""What `--vae-scale` and `--latent-stats` say of latents, of those that are encoded and of an imported network's."""

import math
from dataclasses import replace
from typing import Any

from kinetic.data.latents import Latents
from kinetic.errors import KineticError
from kinetic.models.latents import read_statistics


def as_told(latents: Latents, options: Any, channels: int) -> Latents:
    """Latents of so many channels with the scale, and the mean and std, that the options name instead."""
    if options.vae_scale is not None:
        if not 0 < options.vae_scale < math.inf:
            raise KineticError(f"--vae-scale must be a number above 0, got {options.vae_scale}")
        latents = replace(latents, scale=options.vae_scale)
    if options.latent_stats is not None:
        mean, std = read_statistics(options.latent_stats, channels)
        latents = replace(latents, mean=mean, std=std)
    return latents
