"""Images as bytes and images as the networks see them."""

import torch
from torch import Tensor

from kinetic.errors import KineticError

MID_GRAY = 128  # what a non-finite pixel becomes


def from_uint8(images: Tensor) -> Tensor:
    """Map uint8 images [B, H, W, C] to float32 [B, C, H, W] in [-1, 1]: 0 -> -1, 255 -> 1."""
    return images.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map float images [B, C, H, W] in [-1, 1] to uint8 [B, H, W, C], the inverse of `from_uint8` on all 256 values.

    Values outside [-1, 1] are clipped, infinite ones too; NaN becomes 128, mid-gray.
    """
    levels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return levels.nan_to_num(nan=MID_GRAY).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def grayscale(images: Tensor) -> Tensor:
    """Luma of uint8 images [..., C] with C = 1 or 3 -> [..., 1], by ITU-R 601-2 in the integers that Pillow uses."""
    channels = images.shape[-1]
    if channels == 1:
        return images
    if channels != 3:
        raise KineticError(f"grayscale takes images of 1 or 3 channels, got {channels}; drop the alpha channel first")
    red, green, blue = images.to(torch.int32).unbind(-1)
    luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma.to(torch.uint8).unsqueeze(-1)
