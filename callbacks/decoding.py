"""The autoencoder of the data's latents in validation, loaded once a trainer, where it is at hand."""

from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer

from kinetic.models.autoencoder import Decode, load_autoencoder

from .telling import reason, say

_DECODERS: "WeakKeyDictionary[Trainer, Decode | None]" = WeakKeyDictionary()


def decode_of(trainer: Trainer) -> Decode | None:
    """What makes pictures of the samples; None where they are none of an autoencoder, or it is not at hand.

    That is said in one line, once, and training goes on. Nothing is downloaded.
    """
    if trainer not in _DECODERS:
        _DECODERS[trainer] = _opened(trainer)
    return _DECODERS[trainer]


def _opened(trainer: Trainer) -> Decode | None:
    data = getattr(trainer, "datamodule", None)
    latents = getattr(data, "latents", None)
    if latents is None:
        return None
    try:
        device, shape = trainer.strategy.root_device, tuple(getattr(data, "shape", ())) or None
        found = load_autoencoder(latents.vae, latents=latents, device=device, shape=shape)
    except Exception as error:
        say(trainer, f"latents are not decoded: {reason(error)}; pictures show the mean of their channels")
        return None
    return found.decode
