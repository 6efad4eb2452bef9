"""What the real images of a data module say about a field, under the path and coupling that it was trained on."""

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.errors import KineticError
from kinetic.flow.field import Field
from kinetic.flow.paths import AffinePath
from kinetic.memorization.image_terms import Images, image_terms
from kinetic.training.couplings import COUPLINGS, assignment

FEWEST = 8  # held-out images
CHUNK = 128


def rows_of_images(
    field: Field,
    data: FlowDataModule,
    *,
    images: int,
    path: AffinePath,
    coupling: str = "independent",
    device: torch.device | str = "cpu",
    precision: str = "32",
    rank: int = 0,
    world: int = 1,
) -> tuple[Tensor, Tensor]:
    """This rank's share of the rows of at most `images` held-out and as many training images, see `image_terms`.

    Where there are fewer, each is taken as many times as it goes into `images`, under other times and noises.

    Minibatch optimal transport pairs images and noise in batches of the size that training has.
    """
    if data.num_held_out < FEWEST:
        raise KineticError(
            f"{FEWEST} held-out images are needed at least, and {data.name} has {data.num_held_out}; hold out more"
        )
    if coupling not in COUPLINGS:
        raise KineticError(f"unknown coupling {coupling!r}; choose from {', '.join(COUPLINGS)}")
    found = []
    for held_out, there in ((True, data.num_held_out), (False, data.num_training)):
        count = min(images, there)
        chunk = data.batch_size if coupling == "ot" else CHUNK
        chunks = data.labelled(held_out=held_out, limit=count, chunk=chunk, rank=rank, world=world)
        pairing = assignment if coupling == "ot" else None
        settings = {
            "count": count,
            "path": path,
            "repeats": max(images // count, 1),
            "pairing": pairing,
            "device": device,
            "precision": precision,
        }
        found.append(image_terms(field, chunks, **settings))  # type: ignore[arg-type]
    return found[0], found[1]


def joined(parts: list[tuple[Tensor, Tensor]], coupling: str) -> tuple[Images, Images]:
    """Held-out and training images of all ranks."""
    held, train = (Images.of(list(kind), independent=coupling == "independent") for kind in zip(*parts, strict=True))
    return held, train
