"""Speed and memory of the exact neighbour search against the bare matrix product and a chunked cdist with topk.

python benchmarks/neighbors.py FOLDER --queries 2000 --reference 50000 --rounds 3

FOLDER holds CIFAR-10 as tar shards (train-*.tar.gz and test-*.tar.gz with NNNNNN.jpg); else the images are random.
Times are medians over rounds that interleave the contestants. With --peak, memory is measured in place of time.
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

from kinetic.metrics.neighbors import ReferenceIndex, nearest


def read_images(folder: Path, pattern: str, count: int) -> Tensor:
    """Decode the first `count` images of the shards, [N, 3, 32, 32] float32 in [-1, 1]."""
    images = np.empty((count, 32, 32, 3), np.uint8)
    found = 0
    for path in sorted(folder.glob(pattern)):
        with tarfile.open(path) as tar:
            for member in tar:
                if found < count and member.name.endswith(".jpg"):
                    images[found] = np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())))  # type: ignore[union-attr]
                    found += 1
    if found < count:
        raise SystemExit(f"{folder}/{pattern} holds {found} images, fewer than {count}")
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def load(folder: Path | None, queries: int, reference: int) -> tuple[Tensor, Tensor]:
    """Queries and reference, [N, 3, 32, 32] in [-1, 1]."""
    if folder is None:
        return torch.rand(queries, 3, 32, 32) * 2 - 1, torch.rand(reference, 3, 32, 32) * 2 - 1
    return read_images(folder, "test-*.tar.gz", queries), read_images(folder, "train-*.tar.gz", reference)


def product(queries: Tensor, reference: Tensor, block: int = 1024, chunk: int = 8192) -> None:
    """Bare matrix product, in blocks with the result written to one buffer."""
    q, r = queries.flatten(1), reference.flatten(1)
    buffer = torch.empty(block * chunk, device=q.device)
    for s in range(0, len(r), chunk):
        for b in range(0, len(q), block):
            left, right = q[b : b + block], r[s : s + chunk].T
            torch.mm(left, right, out=buffer[: len(left) * right.shape[1]].view(len(left), -1))


def cdist_topk(queries: Tensor, reference: Tensor, block: int = 1024, chunk: int = 8192) -> Tensor:
    """Chunked cdist with a running topk: the usual way, wrong near zero."""
    q, r = queries.flatten(1), reference.flatten(1)
    found = []
    for part in q.split(block):
        best = part.new_full((len(part), 2), torch.inf)
        for rows in r.split(chunk):
            best = torch.cat([best, torch.cdist(part, rows)], 1).topk(2, largest=False).values
        found.append(best)
    return torch.cat(found)


def clock(call: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MB; Linux only."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(field)).split()[1]) / 1024


def report_peak(queries: Tensor, reference: Tensor) -> None:
    """Print the memory that indexing and searching take beyond what the process held before."""
    product(queries[:64], reference[:64])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    nearest(queries, ReferenceIndex.build(reference))
    print(f"memory beyond the data: {resident('VmHWM') - before:.0f} MB")


def main() -> None:
    """Run the comparison and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=50000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-cdist", action="store_true")
    parser.add_argument("--peak", action="store_true", help="measure memory (CPU, Linux) and not time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    queries, reference = (x.to(args.device) for x in load(args.folder, args.queries, args.reference))
    if args.peak:
        return report_peak(queries, reference)
    start = time.perf_counter()
    index = ReferenceIndex.build(reference)
    print(f"index: {time.perf_counter() - start:.2f} s once, {index.distinct} distinct, {index.duplicates} duplicates")
    contestants: dict[str, Callable[[], object]] = {
        "matrix product": lambda: product(queries, reference),
        "nearest": lambda: nearest(queries, index),
    }
    if not args.no_cdist:
        contestants["cdist + topk"] = lambda: cdist_topk(queries, reference)
    product(queries[:1024], reference[:8192])
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, call in contestants.items():
            times[name].append(clock(call, args.device))
    bare = statistics.median(times["matrix product"])
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name:15s} {middle:8.3f} s  {bare / middle:5.3f} of the product's throughput  {seconds}")


if __name__ == "__main__":
    main()
