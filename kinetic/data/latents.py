"""How latents relate to an autoencoder's, as manifests, checkpoints and runs write it down."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kinetic.data.names import fault_of_name
from kinetic.errors import KineticError

LATER = ("sha256", "posterior", "precision")  # written where they are known
MIRRORED = " (mirrored)"  # after the id of an image, where latents are of its mirror image
POSTERIORS = ("mean", "sample")


@dataclass(frozen=True, kw_only=True)
class Latents:
    """What a network's samples are: (z - mean) / std x scale, of the latents z of an autoencoder.

    Attributes:
        vae: the autoencoder, by name or path.
        scale: above 0.
        mean: of each channel; None is 0.
        std: of each channel; None is 1.
        sha256: of the autoencoder's weights, None where it is not known.
        posterior: whether z is the mean of the autoencoder's posterior or a sample of it; None where it is not known.
        precision: that images were encoded in.
    """

    vae: str
    scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sha256: str | None = None
    posterior: str | None = None
    precision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types alone, for a configuration."""
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in listed.items() if value is not None or name not in LATER}

    @classmethod
    def of(cls, found: Any, source: str) -> "Latents":
        """Take what `to_dict` wrote, out of a file called `source`; KineticError for anything else."""
        if not isinstance(found, dict) or not set(found) <= set(cls.__dataclass_fields__):
            raise _wrong(source, "", found)
        for name, value in found.items():
            if not _fits(name, value):
                raise _wrong(source, f".{name}", value)
        lists = {name: tuple(map(float, found[name])) for name in ("mean", "std") if found.get(name) is not None}
        if "vae" not in found or len({len(values) for values in lists.values()}) > 1:
            raise _wrong(source, "", found)
        return cls(**{**found, **lists, "scale": float(found.get("scale", 1.0))})

    def normalised(self, z: Tensor) -> Tensor:
        """The autoencoder's latents [B, C, ...] as the network has them."""
        mean, std = self._statistics(z)
        return (z - mean) / std * self.scale

    def raw(self, x: Tensor) -> Tensor:
        """The network's latents [B, C, ...] as the autoencoder has them."""
        mean, std = self._statistics(x)
        return x / self.scale * std + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std [C, 1, ...], on the device of latents [B, C, ...]."""
        channels = like.shape[1]
        found = []
        for values, usual in ((self.mean, 0.0), (self.std, 1.0)):
            one = torch.tensor([usual] * channels if values is None else list(values), dtype=torch.float32)
            if len(one) != channels:
                raise KineticError(f"latents of {channels} channels, but mean and std of {len(one)} are known")
            found.append(one.to(like.device).reshape(-1, *[1] * (like.ndim - 2)))
        return found[0], found[1]


def _fits(name: str, value: Any) -> bool:
    """Whether a field may have a value."""
    if name == "vae":
        return isinstance(value, str) and fault_of_name(value) is None
    if name == "scale":
        return _is_number(value) and value > 0
    if value is None:
        return True
    if name in ("mean", "std"):
        numbers = isinstance(value, list | tuple) and 0 < len(value) <= 4096 and all(map(_is_number, value))
        return numbers and (name == "mean" or min(value) > 0)
    if name == "sha256":
        return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
    if name == "posterior":
        return value in POSTERIORS
    return isinstance(value, str) and re.fullmatch("[a-z0-9-]{1,20}", value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(source: str, name: str, got: Any) -> KineticError:
    return KineticError(f"{source} is damaged: latents{name} is {got!r:.80}, which says nothing of an autoencoder")
