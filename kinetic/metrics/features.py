"""Images to features, a batch at a time, by whatever extractor is passed in."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSet, ImageSource
from kinetic.tensors import exact_products

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """One way to describe images by numbers.

    Attributes:
        name: as it was asked for, such as `pca:32`.
        identity: plain types that decide what the features are: kind, SHA-256 of the weights, resize rule.
        compute: images float32 [n, C, H, W] in [-1, 1], or points [n, D], on `device` -> features [n, F].
        device: where it computes.
        batch: images at a time.
        note: what a reader should know of it, such as the accuracy of a classifier; empty for nothing.
    """

    name: str
    identity: dict[str, Any]
    compute: Callable[[Tensor], Tensor]
    device: torch.device = CPU
    batch: int = 64
    note: str = ""

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that differ where the features may."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def resize(self) -> str:
        """How images are brought to the size that it takes; "none" where they are taken as they are."""
        return str(self.identity.get("resize", "none"))

    def batches(self, images: ImageSource) -> Iterator[Tensor]:
        """Yield features float32 [n, F] on the CPU in the order of `images`; NaN for an image that is not finite.

        Images are read once, as `ImageSet` reads them: float in [-1, 1], or uint8 [N, C, H, W].
        """
        source = ImageSet.of(images, "the image set")
        for _, flat, _ in source.chunks(self.batch, device=self.device, dtype=torch.float32, scaled=True):
            finite = flat.isfinite().all(1)
            with torch.no_grad(), exact_products(self.device):
                found = self.compute(flat.nan_to_num(0, 0, 0).unflatten(1, source.shape))
            if found.ndim != 2 or len(found) != len(flat):
                got, want = list(found.shape), f"[{len(flat)}, F]"
                raise KineticError(f"extractor {self.name} gives {got} for {len(flat)} images, where {want} is needed")
            yield found.float().masked_fill(~finite[:, None], torch.nan).cpu()


def features(images: ImageSource, extractor: Extractor) -> Tensor:
    """Features float32 [N, F] of all images [N, C, H, W] in [-1, 1], or points [N, D], on the CPU."""
    return torch.cat(list(extractor.batches(images)))


def pictures(x: Tensor, name: str) -> Tensor:
    """Take images [n, C, H, W] as three channels, gray ones repeated; KineticError for anything else."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise KineticError(
            f"{name} takes pictures of 1 or 3 channels, got {list(x.shape[1:])}; use the features pixels or pca:N"
        )
    return x.expand(-1, 3, -1, -1)
