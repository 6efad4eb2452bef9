"""A million references in a file: neighbour search and closed-form field against the bare products, time and memory.

    python benchmarks/million.py FOLDER --sizes 10000 100000 1000000 1281167 --threads 1

writes random references [N, 4096] in half precision to FOLDER once (10.5 GB for all of ImageNet). At every size two
contestants run in turn, so that whatever else the machine does falls on both: what is measured, and the matrix products
that it cannot do without, of the same shapes in float32, over and over one piece in memory. Beside them the floor: the
products and, one after the other, to read the file (a second time: from memory where it fits) and widen it to float32.
Memory is what the process holds itself (RssAnon; Linux): files are read and not mapped, so that nothing of them counts
or hides.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.metrics.neighbors import nearest
from kinetic.metrics.reference import ReferenceIndex
from kinetic.store.rows import RowFile

PIECE = 1024  # rows
KINDS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def references(folder: Path, count: int, dim: int, dtype: torch.dtype) -> RowFile:
    """The first `count` rows of a file of random numbers, written if it is not there or too short."""
    path = folder / f"references-{dim}-{str(dtype).removeprefix('torch.')}.npy"
    if not path.is_file() or len(RowFile(path)) < count:
        folder.mkdir(parents=True, exist_ok=True)
        file, made = RowFile.create(path, (count, dim), dtype), torch.Generator().manual_seed(0)
        for start in range(0, count, PIECE):
            file.write(start, torch.randn(min(PIECE, count - start), dim, generator=made))
    return RowFile(path, slice(0, count))


def anonymous() -> float:
    """Memory that this process holds itself, MB, without pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


@contextmanager
def peak() -> Iterator[list[float]]:
    """Measure the largest memory in a block, MB, as one number of a list, by looking every 5 ms."""
    done, found = threading.Event(), [anonymous()]

    def watch() -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def clock(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def search_products(queries: Tensor, count: int) -> None:
    """The bare products of a search."""
    piece, out = torch.ones(PIECE, queries.shape[1]), torch.empty(len(queries), PIECE)
    for start in range(0, count, PIECE):
        rows = min(PIECE, count - start)
        torch.mm(queries, piece[:rows].T, out=out[:, :rows])


def field_products(queries: Tensor, count: int) -> None:
    """The bare products of the field: logits, and the weighted mean."""
    piece, out = torch.ones(PIECE, queries.shape[1]), torch.empty(len(queries), PIECE)
    mean = torch.empty_like(queries)
    for start in range(0, count, PIECE):
        rows = min(PIECE, count - start)
        torch.mm(queries, piece[:rows].T, out=out[:, :rows])
        torch.mm(out[:, :rows], piece[:rows], out=mean)


def reading(file: RowFile) -> tuple[float, float]:
    """Seconds to read a file, and to turn it to float32."""
    raw, wide = torch.empty(PIECE, *file.shape[1:], dtype=file.dtype), torch.empty(PIECE, *file.shape[1:])
    read = convert = 0.0
    for start in range(0, len(file), PIECE):
        rows = slice(start, min(start + PIECE, len(file)))
        part = raw[: rows.stop - rows.start]
        read += clock(lambda rows=rows, part=part: file.read(rows, part))  # type: ignore[misc]
        convert += clock(lambda part=part: wide[: len(part)].copy_(part))  # type: ignore[misc]
    return read, convert


def measure(name: str, products: Callable[[], object], call: Callable[[], object], floor: float, rounds: int) -> None:
    """Print one line: time, share of the bare products, of the floor, and memory."""
    bare, ours, held = [], [], 0.0
    for _ in range(rounds):
        bare.append(clock(products))
        with peak() as found:
            ours.append(clock(call))
        held = max(held, found[0])
    middle, least = statistics.median(ours), statistics.median(bare)
    print(
        f"  {name:16s} {middle:8.2f} s  products {least:8.2f} s  share {least / middle:.3f}"
        f"  floor {least + floor:8.2f} s  of it {(least + floor) / middle:.3f}  memory {held:.0f} MB",
        flush=True,
    )


def main() -> None:
    """Measure at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--kind", choices=KINDS, default="float16")
    parser.add_argument("--times", type=float, nargs="+", default=[0.3, 0.9])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    references(args.folder, max(args.sizes), args.dim, KINDS[args.kind])
    queries = torch.randn(args.queries, args.dim, generator=torch.Generator().manual_seed(1))
    search_products(queries, PIECE)
    print(
        f"{args.queries} queries of {args.dim} numbers, {args.kind}, {args.threads} threads, holds {anonymous():.0f} MB"
    )
    for count in args.sizes:
        file = references(args.folder, count, args.dim, KINDS[args.kind])
        first, _ = reading(file)
        read, convert = reading(file)
        size = file.nbytes / 1e9
        rates = f"{first:.2f} s, then {read:.2f} s ({size / read:.1f} GB/s)"
        print(f"N={count:,}: {size:.2f} GB, read in {rates}, to float32 in {convert:.2f} s", flush=True)
        made: list[ReferenceIndex] = []
        with peak() as held:
            seconds = clock(lambda file=file, made=made: made.append(ReferenceIndex.build(file)))  # type: ignore[misc]
        print(f"  {'index, once':16s} {seconds:8.2f} s  memory {held[0]:.0f} MB", flush=True)
        measure(
            "nearest",
            lambda count=count: search_products(queries, count),  # type: ignore[misc]
            lambda index=made[0]: nearest(queries, index),  # type: ignore[misc]
            read + convert,
            args.rounds,
        )
        del made
        fields: list[EmpiricalVelocity] = []
        with peak() as held:
            seconds = clock(lambda file=file, fields=fields: fields.append(EmpiricalVelocity(file)))  # type: ignore[misc]
        print(f"  {'field, once':16s} {seconds:8.2f} s  memory {held[0]:.0f} MB", flush=True)
        for t in args.times:
            near = file.read(slice(0, len(queries))).float()
            x = t * near + (1 - t) * queries[: len(near)]
            measure(
                f"field at t={t:g}",
                lambda count=count: field_products(queries, count),  # type: ignore[misc]
                lambda field=fields[0], x=x, t=t: field(x, torch.tensor(t)),  # type: ignore[misc]
                read + convert,
                args.rounds,
            )


if __name__ == "__main__":
    main()
