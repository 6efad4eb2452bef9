"""Images a second of the folder loader against torchvision's ImageFolder and DataLoader, in turns within one process.

Run: python benchmarks/folder_loader.py [FOLDER] [--images 50000] [--side 32] [--workers 0,1,2] [--rounds 5]

Without a folder it makes one, in a temporary place, of png files of random pixels in ten folders, which are classes.
First it tells how long both take from nothing to their first batch, their listing included, the first time (behind
the other one's, so that neither reads from a cold disk alone) and again. Then both decode all files in a random order,
mirror them at random, and give float batches [B, C, H, W] in [-1, 1] with labels; ours tells every image's id, too.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from kinetic.data import Folder

TRANSFORM = v2.Compose(
    [v2.PILToTensor(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
)


def make(folder: Path, images: int, side: int) -> None:
    """Write `images` files of `side` x `side` pixels."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class {label}").mkdir()
    for number in range(images):
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"class {number % 10}" / f"{number:06}.png", compress_level=1)


def theirs(folder: str, batch: int, workers: int) -> Iterator[Any]:
    """An epoch of torchvision's pieces."""
    yield from DataLoader(
        ImageFolder(folder, TRANSFORM), batch_size=batch, shuffle=True, num_workers=workers, drop_last=True
    )


def ours(folder: str, batch: int, workers: int) -> Iterator[Any]:
    """An epoch of the project's."""
    yield from Folder(path=folder, flip=True, batch_size=batch, num_workers=workers, cache=False).train_loader()


def kept(folder: str, batch: int, workers: int) -> Iterator[Any]:
    """The project's by default: what fits is kept in memory from its first use on."""
    yield from Folder(path=folder, flip=True, batch_size=batch, num_workers=workers).train_loader()


def first(make_loader: Callable[..., Iterator[Any]], *args: Any) -> float:
    """Seconds from nothing to the first batch."""
    start = time.perf_counter()
    next(make_loader(*args))
    return time.perf_counter() - start


def speed(batches: Iterator[Any], count: int) -> float:
    """Batches a second over `count` of them, from the second on: the first one waits for listing and workers."""
    next(batches)
    start = time.perf_counter()
    done = sum(1 for _ in zip(range(count), batches, strict=False))
    return done / (time.perf_counter() - start)


def measure(folder: str, options: argparse.Namespace) -> None:
    """Print first batches, then a line of ratios for each number of workers."""
    pipelines = {"torchvision": theirs, "ours": ours}
    for turn in ("first", "again"):
        for name, pipeline in {**pipelines, "ours, kept": kept}.items():
            print(f"{turn:>5} start of {name:>11}: {first(pipeline, folder, options.batch_size, 0):.2f} s to a batch")
    for workers in map(int, options.workers.split(",")):
        rates: dict[str, list[float]] = {name: [] for name in pipelines}
        for _ in range(options.rounds):
            for name, pipeline in pipelines.items():
                rates[name].append(speed(pipeline(folder, options.batch_size, workers), options.batches))
        ratios = [a / b for a, b in zip(rates["ours"], rates["torchvision"], strict=True)]
        print(
            f"{workers} workers: {statistics.median(rates['ours']) * options.batch_size:7.0f} images/s,"
            f" {statistics.median(ratios):.2f} of torchvision ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60, help="batches timed in a round")
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.folder is not None:
        measure(options.folder, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.images, options.side)
        measure(folder, options)


if __name__ == "__main__":
    main()
