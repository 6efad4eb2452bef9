"""One of some processes that each hold a share of a set of references; writes what it found, for the tests."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from kinetic.data import Digits
from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.memorization.training_set import Keep, TrainingSet
from kinetic.metrics.neighbors import nearest
from kinetic.metrics.reference import ReferenceIndex
from kinetic.ranks import bounds, gather_rows, place, together

TIMES = (0.2, 0.9, 0.999)


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def references() -> tuple[Tensor, Tensor, Tensor]:
    """Images [401, 1, 4, 6] with repetitions and views in other shares, their numbers, queries [31, ...]."""
    images = drawn(0, 401, 1, 4, 6)
    images[300:310] = images[:10]  # identical, in the other share
    images[390] = images[5] + 1e-4
    numbers = torch.arange(401)
    numbers[350] = 20  # a view of an image of the other share
    queries = torch.cat([images[:16] + 1e-3 * drawn(1, 16, 1, 4, 6), images[340:354] + 0.1, images[:1] * torch.nan])
    return images, numbers, queries


def answers(folder: Path) -> dict[str, Tensor]:
    """What this process finds for its share of the queries, of which the last process has none."""
    rank, world = place()
    images, numbers, queries = references()
    mine = slice(*bounds(len(images), rank, world))
    asked = slice(*((0, len(queries)) if rank == 0 else (0, 0)))
    found: dict[str, Tensor] = {}
    for flip in (False, True):
        index = ReferenceIndex.build([(images[mine], numbers[mine])], flip=flip, shared=True)
        got = nearest(queries[asked], index, k=3)
        found[f"distances {flip}"], found[f"indices {flip}"] = got.distances, got.indices
        found[f"about {flip}"] = torch.tensor([index.distinct, index.duplicates, index.low, index.high])
        found[f"images {flip}"] = index.images(torch.tensor([300, 3, 349, 3]))
    labels = torch.arange(len(images)) % 3
    field = EmpiricalVelocity(images[mine], labels[mine], chunk=17, shared=True)
    for t in TIMES:
        x = t * images[40:56] + (1 - t) * drawn(2, 16, 1, 4, 6)
        part = slice(*bounds(16, rank, world))
        classes = torch.arange(16) % 4
        found[f"field {t}"] = field(x[part], torch.tensor(t))
        found[f"classes {t}"] = field(x[part], torch.full((16,), t)[part], classes[part])
    data = Digits(num_train=60, num_val=40)
    data.setup()
    samples = torch.cat([x for x, _, _ in data.reference()])[:9].clamp(-0.9, 0.9)
    for precision, kept in (("float32", None), ("float16", folder / "kept"), ("float16", folder / "kept")):
        training = TrainingSet.of(data, keep=Keep(precision, kept), cache_bytes=0, shared=True)
        part = slice(*((0, 9) if rank == 0 else (0, 0)))
        rows = training.measure(samples[part], torch.arange(9)[part])
        found[f"rows {precision}"] = rows
        assert training.null is not None
        found["null"] = torch.tensor([training.null.f_mem, training.null.high, training.null.count])
        found["beside"] = training.shown(samples[:3], torch.tensor([0, 1, 59]))[1]
    return found


def failing() -> str:
    """What this process says where another one failed."""
    try:
        together(lambda: 1 // (1 - place()[0]))
    except (KineticError, ZeroDivisionError) as error:
        return str(error)
    return "nothing"


def main(folder: str, rank: str, world: str) -> None:
    """Join the others, and write the answers: those of all in the order of the ranks."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), int(world))
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(world))
    found = answers(Path(folder))
    together_ = {name: torch.cat(gather_rows(value)).numpy() for name, value in found.items()}
    np.savez(Path(folder) / f"{rank}.npz", failing=np.array(failing()), **together_)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
