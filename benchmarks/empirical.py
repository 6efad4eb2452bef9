"""Throughput of the closed-form field against the two bare matrix products that it cannot do without.

Both run in one process, in turn, so that whatever else the machine does falls on both: a ratio of medians.

    python benchmarks/empirical.py --shards DIRECTORY   # CIFAR-10 as webdataset shards; random images without
"""

import argparse
import io
import statistics
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kinetic.flow.empirical import EmpiricalVelocity


def cifar10(folder: Path) -> Tensor:
    """Decode the training shards to float32 [N, 3, 32, 32] in [-1, 1]."""
    images = []
    for path in sorted(folder.glob("train-*.tar*")):
        with tarfile.open(path) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.name.endswith(".jpg") else None
                if handle is not None:
                    images.append(np.asarray(Image.open(io.BytesIO(handle.read()))))
    if not images:
        raise SystemExit(f"no train-*.tar shards in {folder}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def seconds(task: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one run."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(device: torch.device, *, reset: bool = False) -> float:
    """Highest memory held since the last reset, GB: of the process on a CPU (Linux), else of the device."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**30
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def compare(images: Tensor, field: EmpiricalVelocity, noise: Tensor, t: float, repeats: int) -> None:
    """Print the throughput at one time t, and the memory that the field takes beyond what is held before."""
    flat, device = images.flatten(1), images.device
    x = (1 - t) * noise + t * images[: len(noise)]
    at = torch.full((len(noise),), t, device=device)
    query, weights = x.flatten(1), torch.rand(len(noise), len(flat), device=device)

    def products() -> tuple[Tensor, Tensor]:
        return query @ flat.T, weights @ flat

    products()
    before = peak_memory(device, reset=True)
    field(x, at)
    memory = peak_memory(device) - before
    runs = [(seconds(products, device), seconds(lambda: field(x, at), device)) for _ in range(repeats)]
    bare, ours = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"t={t:<5} products {bare:.3f} s, field {ours:.3f} s: {bare / ours:.3f}, memory {1024 * memory:.0f} MB")


def main() -> None:
    """Measure at several times t, one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="folder of CIFAR-10 shards train-*.tar.gz")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--times", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.5, 0.9, 0.99])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    images = cifar10(args.shards)[: args.images] if args.shards else torch.rand(args.images, 3, 32, 32) * 2 - 1
    images, noise = images.to(args.device), torch.randn(args.batch, 3, 32, 32).to(args.device)
    field = EmpiricalVelocity(images, chunk=args.chunk)
    print(f"{len(images)} images of {images[0].numel()} numbers, batch {args.batch}, chunk {args.chunk}, {args.device}")
    for t in args.times:
        compare(images, field, noise, t, args.repeats)


if __name__ == "__main__":
    main()
