"""Images a second of the shards loader against a bare webdataset pipeline, in turns within one process.

Run: python benchmarks/shards_loader.py [FOLDER_OF_SHARDS] [--rounds 5] [--batch-size 128] [--workers 0,1,2]

Both read the same tars from front to back, mix 2,000 encoded samples in a buffer, decode, and give float batches
[B, C, H, W] in [-1, 1] with labels. The loader of the project also gives every image its id.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import webdataset as wds

from kinetic.data import Shards
from kinetic.data.loader import TrainLoader
from kinetic.data.sources import find_shards


def bare(urls: list[str], batch: int, workers: int) -> Iterator[Any]:
    """Webdataset's own pieces: jpg and cls, decoded by Pillow to uint8, batched, made float."""
    dataset = (
        wds.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(2000)
        .decode("rgb8")
        .to_tuple("jpg", "cls")
        .batched(batch, collation_fn=collate)
    )
    for images, labels in wds.WebLoader(dataset, batch_size=None, num_workers=workers):
        yield images.permute(0, 3, 1, 2).float().div(127.5).sub(1), labels


def collate(samples: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack images and labels."""
    images, labels = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def speed(batches: Iterable[Any], count: int) -> float:
    """Batches a second over the first `count`, the first one (which fills the buffer) included."""
    start = time.perf_counter()
    done = sum(1 for _ in zip(range(count), batches, strict=False))
    return done / (time.perf_counter() - start)


def again(loader: TrainLoader) -> Iterator[Any]:
    """One epoch from its start."""
    loader.load_state_dict({"batches": 0})
    yield from loader


def main() -> None:
    """Print the median ratio, streamed and from memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="../shared/data/cifar10")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=100, help="batches timed in a round")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", default="0,1,2")
    args = parser.parse_args()
    urls = [s.url for s in find_shards(args.folder) if not s.name.startswith("test")]
    for workers in map(int, args.workers.split(",")):
        measure(urls, workers, args)


def measure(urls: list[str], workers: int, args: argparse.Namespace) -> None:
    """Print a line for each way to read, with so many workers."""
    common = {"batch_size": args.batch_size, "num_workers": workers, "num_val": 0}
    streamed = Shards(train=urls, cache=False, **common).train_loader()
    cached = Shards(train=urls, cache=True, **common).train_loader()
    next(iter(cached))  # decodes everything
    rates: dict[str, list[float]] = {"webdataset": [], "streamed": [], "cached": []}
    for _ in range(args.rounds):
        rates["webdataset"].append(speed(bare(urls, args.batch_size, workers), args.batches))
        rates["streamed"].append(speed(again(streamed), args.batches))
        rates["cached"].append(speed(again(cached), args.batches))
    for name, values in rates.items():
        ratios = [v / w for v, w in zip(values, rates["webdataset"], strict=True)]
        print(
            f"{workers} workers, {name:>10}: {statistics.median(values) * args.batch_size:9.0f} images/s,"
            f" {statistics.median(ratios):6.2f} of webdataset ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
