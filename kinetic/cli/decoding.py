"""The autoencoder of a run's latents on the command lines: asked for, at hand, or left out with one line."""

import sys
from typing import Any

import torch

from kinetic.data.latents import Latents
from kinetic.errors import KineticError
from kinetic.models.autoencoder import Autoencoder, load_autoencoder
from kinetic.models.opening import Origin
from kinetic.training.loggers import is_rank_zero


def decoder_of(options: Any, origin: Origin, device: torch.device) -> Autoencoder | None:
    """What makes pictures of the samples, on the first process; None where they need none, or it is not at hand.

    An autoencoder that is named with --vae must fit; that of the run may be missing, which is said in one line.
    """
    if origin.field.space != "latents":
        if options.vae is not None:
            raise KineticError(f"--vae decodes latents, and the samples of {origin.name} are {origin.field.space}")
        return None
    if not is_rank_zero():
        return None
    try:
        return _opened(options.vae, origin, device)
    except KineticError as error:
        if options.vae is not None:
            raise
        print(f"latents are not decoded: {error}", file=sys.stderr)
        return None


def _opened(named: str | None, origin: Origin, device: torch.device) -> Autoencoder:
    known: Latents | None = origin.latents
    if named is None and known is None:
        raise KineticError("their autoencoder is not known; name it with --vae")
    name = named or known.vae  # type: ignore[union-attr]
    shape = origin.field.shape or ()
    return load_autoencoder(name, latents=known, device=device, download=named is not None, shape=shape)
