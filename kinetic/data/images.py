"""Read one image: from a file to uint8 [H, W, C] at the size and with the channels that are wanted."""

import os
import stat
import warnings
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from kinetic.data.names import shown
from kinetic.data.pixels import grayscale as to_gray
from kinetic.errors import KineticError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF")  # none of them runs a program
MOST_PIXELS = 89_478_485  # Pillow's own measure of a decompression bomb
TWELVE_BITS = 4095
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MOST_PIXELS refuses what it warns of
SKIP = "remove it or pass skip_bad=true"


class _Range(ValueError):
    """Values of which one cannot tell how bright they are, and how to mend them."""


def read_image(file: str | Path | IO[bytes], *, name: str, channels: int | None, size: int | None = None) -> Tensor:
    """Decode an image file to uint8 [H, W, C], turned upright, at `channels` 1 or 3 (None: as many as the file has).

    A file that cannot be decoded, that is no regular file or has more than MOST_PIXELS is a KineticError that says
    its `name`. So is one whose values do not fill the range that its mode has, see `convert`.
    """
    try:
        if isinstance(file, (str, Path)) and not stat.S_ISREG(os.stat(file).st_mode):
            raise OSError("it is not a regular file")
        with Image.open(file, formats=_formats()) as image:
            if not 0 < image.width * image.height <= MOST_PIXELS:
                raise OSError(f"it has {image.width:,} x {image.height:,} pixels, at most {MOST_PIXELS:,} are read")
            wide = image.mode not in ("1", "L") and _reduced(image)
            image.load()
            if wide and (most := _most(image)):
                _check_sixteen(256 * most + 255)
            upright = ImageOps.exif_transpose(image)
            picture = convert(upright, channels)
        return as_bytes(fit(picture, size))
    except _Range as error:
        raise KineticError(f"image {shown(name)} {error}, or leave it out with skip_bad=true") from None
    except FileNotFoundError:
        raise KineticError(f"image {shown(name)} does not exist") from None
    except UnidentifiedImageError:
        reason = "it is no picture in a format that is read"
    except Image.DecompressionBombError:
        reason = f"it has more than the {MOST_PIXELS:,} pixels that are read"
    except Exception as error:  # what Pillow raises for a damaged file is no fixed list
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    raise KineticError(f"cannot decode image {shown(name)} ({reason}): {SKIP}")


def convert(image: Image.Image, channels: int | None) -> Image.Image:
    """Turn any Pillow image to mode L (1 channel) or RGB (3); alpha is dropped.

    Floats in [0, 1] are scaled to 255, those in [0, 255] taken as they are. Values of 16 bits are scaled from 65535.
    32-bit whole numbers up to 255 are taken as they are, up to 65535 as 16 bits. ValueError where the values are
    others, or those of 12 bits.
    """
    if image.mode.startswith("F"):
        image = Image.fromarray(_bytes(_float_levels(np.asarray(image, dtype=np.float64))))
    elif image.mode.startswith("I"):
        image = Image.fromarray(_bytes(_whole_levels(np.asarray(image, dtype=np.float64), image.mode)))
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


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _float_levels(values: np.ndarray) -> np.ndarray:
    least, most = float(values.min()), float(values.max())  # NaN where one is
    if not (least >= 0 and most <= 255):
        raise _Range(f"has floats from {least:g} to {most:g}: scale them to 0 to 1 or to 0 to 255")
    return values * 255 if most <= 1 else values


def _whole_levels(values: np.ndarray, mode: str) -> np.ndarray:
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise _Range(f"has whole numbers from {least:,} to {most:,}: scale them to 0 to 255 or to 0 to 65,535")
    if mode == "I" and most <= 255:
        return values
    _check_sixteen(most)
    return values / 257


def _check_sixteen(most: int) -> None:
    if 0 < most <= TWELVE_BITS:
        bits = 8 if most <= 255 else 12
        raise _Range(
            f"looks like {bits} bits in 16, its values end at {most:,} and not near 65,535:"
            f" multiply them by {65536 >> bits} and write it again"
        )


def _reduced(image: Image.Image) -> bool:
    """Whether Pillow takes the upper 8 of 16 bits while it reads colours."""
    tiles = getattr(image, "tile", None) or ()
    return any(";16" in str(tile[3]) for tile in tiles) and not image.mode.startswith("I")


def _most(image: Image.Image) -> int:
    """The largest value of any colour, alpha left out."""
    return max(int(np.asarray(image.getchannel(band)).max()) for band in image.getbands() if band != "A")


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
