"""The autoencoder of the data's latents in validation, loaded once a trainer, where it is at hand."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from kinetic.errors import KineticError, first_line
from kinetic.models.autoencoder import load_autoencoder

from .telling import say

Decode = Callable[[Tensor], Tensor]
_DECODERS: "WeakKeyDictionary[Trainer, Decode | None]" = WeakKeyDictionary()


def decode_of(trainer: Trainer, module: LightningModule) -> Decode | None:
    """What makes pictures of the samples; None where they are none of an autoencoder, or it is not at hand.

    That is said in one line, once, and training goes on. Nothing is downloaded.
    """
    if trainer not in _DECODERS:
        _DECODERS[trainer] = _opened(trainer, module)
    return _DECODERS[trainer]


def _opened(trainer: Trainer, module: LightningModule) -> Decode | None:
    data = getattr(trainer, "datamodule", None)
    latents = getattr(data, "latents", None)
    if latents is None:
        return None
    try:
        found = load_autoencoder(
            latents.vae, latents=latents, device=module.device, shape=tuple(getattr(data, "shape", ())) or None
        )
    except Exception as error:
        reason = str(error) if isinstance(error, KineticError) else first_line(error)
        say(trainer, f"latents are not decoded: {reason}; pictures show the mean of their channels")
        return None
    return found.decode
