"""The 100 small faces that come inside scikit-image: photographs with no download."""

import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetic.data.arrays import read_array
from kinetic.data.base import FlowDataModule
from kinetic.data.images import fit_all
from kinetic.data.pools import ArrayPool, Source
from kinetic.errors import KineticError

FACES = 100  # the first images of the file; others follow that are no faces
FILE = Path("data") / "lfw_subset.npy"
MOST = 2**28  # bytes of a file


class Faces(FlowDataModule):
    """Faces of Labeled Faces in the Wild, 25 x 25 pixels, one channel: `num_train` to train on, the rest held out.

    They lie in scikit-image (the extra `faces`, BSD licence), which is not imported. An id is `faces/` and the row in
    its array. Source: lfw_subset, centre crops of LFW by scikit-image.
    """

    name = "faces"

    def __init__(self, *, path: str | None = None, **common: Any) -> None:
        """Read the images of scikit-image, or those of another npy file [N, H, W] of floats in [0, 1] at `path`."""
        super().__init__(**common)
        if path is not None and not isinstance(path, str):
            raise KineticError(f"path={path!r:.80} must be the name of an npy file")
        self.path = path

    def load(self) -> Source:
        """Read the array; its levels of gray in [0, 1] are spread over 0 to 255."""
        file = Path(self.path) if self.path is not None else shipped()
        levels = read_faces(file).mul(255).round().to(torch.uint8)
        images = fit_all(levels.unsqueeze(-1), size=self.size, grayscale=False)
        return Source(ArrayPool(images, ids=[f"faces/{i:03d}" for i in range(len(images))]))


def shipped() -> Path:
    """Where scikit-image keeps its faces; KineticError where it is not installed, or came without them."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise KineticError("faces lie in scikit-image, which is not installed; add the extra faces, or pass path=FILE")
    file = Path(found.origin).parent / FILE
    if not file.is_file():
        raise KineticError(f"this scikit-image came without {FILE}; install another version, or pass path=FILE")
    return file


def read_faces(file: Path) -> Tensor:
    """Read the first 100 images of an npy file, fewer where there are fewer: float32 [n, H, W] in [0, 1]."""
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MOST:
            raise ValueError(f"it is no regular file of at most {MOST:,} bytes")
        images = read_array(file.read_bytes())
        if images.ndim != 3:
            raise ValueError(f"its shape is {list(images.shape)}, not [N, H, W]")
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"its values lie in [{images.min():g}, {images.max():g}], not in [0, 1]")
    except OSError as error:
        raise KineticError(f"cannot read the faces {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise KineticError(f"cannot read the faces {file}: {error}") from None
    return images[:FACES]
