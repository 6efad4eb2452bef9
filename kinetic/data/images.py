"""Read one image: from a file to uint8 [H, W, C] at the size and with the channels that are wanted."""

from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kinetic.data.pixels import grayscale as to_gray
from kinetic.errors import KineticError


def read_image(file: str | Path | IO[bytes], *, name: str, channels: int | None, size: int | None = None) -> Tensor:
    """Decode an image file to uint8 [H, W, C], turned upright, at `channels` 1 or 3 (None: as many as the file has).

    A file that cannot be decoded is a ValueError that says its `name`.
    """
    try:
        with Image.open(file) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            picture = convert(upright, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise KineticError(f"image {name} does not exist") from None
        reason = " ".join(str(error).split())
        raise KineticError(f"cannot decode image {name} ({reason}): remove it or pass skip_bad=true") from None
    return as_bytes(fit(picture, size))


def convert(image: Image.Image, channels: int | None) -> Image.Image:
    """Turn any Pillow image to mode L (1 channel) or RGB (3); 16-bit gray keeps its range, alpha is dropped."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        scale = 257.0 if image.mode.startswith("I") else 1.0
        image = Image.fromarray(np.clip(np.round(values / scale), 0, 255).astype(np.uint8))
    if channels is None:
        channels = 1 if image.mode in ("1", "L", "LA") else 3
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, size: int | None) -> Image.Image:
    """Resize the shorter side to `size` pixels (bicubic, antialiased) and cut out the central square."""
    if size is None or image.size == (size, size):
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def fit_all(images: Tensor, *, size: int | None, grayscale: bool) -> Tensor:
    """Do to uint8 images [N, H, W, C] in memory what `read_image` does to files."""
    images = to_gray(images) if grayscale else images
    if size is None or tuple(images.shape[1:3]) == (size, size):
        return images
    return torch.stack([as_bytes(fit(Image.fromarray(i.squeeze(-1).numpy()), size)) for i in images])


def as_bytes(image: Image.Image) -> Tensor:
    """A Pillow image of mode L or RGB as uint8 [H, W, C]."""
    array = np.array(image)
    return torch.from_numpy(array[..., None] if array.ndim == 2 else array)
