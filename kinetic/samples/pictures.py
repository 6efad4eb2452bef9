"""Samples as people see them: latents decoded, where the autoencoder is at hand; everything else as it is."""

from dataclasses import replace

from torch import Tensor

from kinetic.data.pixels import to_uint8
from kinetic.models.autoencoder import Decode
from kinetic.samples.parts import Part


class Decoded:
    """Parts of latents as parts of pictures; each is decoded once, whoever asks for it."""

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self._last: tuple[Part, Part] | None = None

    def __call__(self, part: Part) -> Part:
        """The same samples as uint8 [B, H, W, C]; those that are not finite are mid-gray."""
        if self._last is None or self._last[0] is not part:
            self._last = part, replace(part, x=to_uint8(self.decode(part.images())).numpy(), pictures=True)
        return self._last[1]


def as_shown(x: Tensor, decode: Decode | None) -> Tensor:
    """Samples [B, ...] for a picture."""
    return x if decode is None else decode(x)
