"""Membership inference: which of some real images a network was trained on, judged by the network alone.

The privacy side of copying. Small values are a sign of membership; none of it reads more than the images themselves.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kinetic.flow.field import Field, evaluating
from kinetic.flow.sampling import velocity_of
from kinetic.memorization.copy_score import Array
from kinetic.memorization.detectors import COUNT, posterior

TIME = 0.7


@dataclass(frozen=True)
class Membership:
    """Numbers of images, [N] float64 each.

    Attributes:
        loss: of the network on the image at time `TIME`, a mean over `COUNT` common noises.
        sima: norm of the noise that the network sees in an image without any (SimA, arXiv 2509.25003).
        complexity: bytes of the image in 8 bits, compressed.
    """

    loss: Array
    sima: Array
    complexity: Array

    @classmethod
    def of(cls, field: Field, x: Tensor, labels: Tensor | None = None) -> "Membership":
        """Measure images `x` [N, ...] with `COUNT` + 1 evaluations each."""
        found = posterior(field, x, labels=labels, t=TIME, count=COUNT)
        times = x.new_full(x.shape[:1], TIME)
        with evaluating(field.net), torch.no_grad():
            shrunk = field.path.sample(torch.zeros_like(x), x, times).xt
            v = velocity_of(field, x, labels=labels)(shrunk, times)
            noise = field.path.convert(v, shrunk, times, given="velocity", to="x0")
        norm = noise.flatten(1).norm(dim=1)
        sizes = np.array([_compressed(one) for one in x], np.float64)
        return cls(found.error.double().cpu().numpy(), norm.double().cpu().numpy(), sizes)

    @classmethod
    def join(cls, parts: "list[Membership]") -> "Membership":
        """Put batches together."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))

    def scores(self) -> dict[str, Array]:
        """Three scores, large for members: by loss, by loss given the image's complexity, and SimA.

        The second is what a line through log loss over log complexity of all images leaves (in the spirit of Rao and
        Moyer, arXiv 2603.13421): plain images have small losses, members or not.
        """
        loss, size = np.log(np.maximum(self.loss, 1e-30)), np.log(self.complexity)
        line = np.polyval(np.polyfit(size, loss, 1), size) if np.ptp(size) > 0 else loss.mean()
        return {"loss": -loss, "calibrated_loss": line - loss, "sima": -self.sima}


def _compressed(image: Tensor) -> int:
    levels = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return len(zlib.compress(levels.numpy().tobytes(), 9))
