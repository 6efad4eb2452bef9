"""What measuring and shaping cost: `draw` against the plainest Euler loop of the same network, and one at a time.

All run in one process, in turn. Beside the ratio of medians it prints the share of `draw` that is spent outside the
network, which other work on the machine disturbs less.

    python benchmarks/sampling_overhead.py --batch 64 --steps 4
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS
from kinetic.nn import UNet
from kinetic.tensors import seeded_noise


class Clocked:
    """A network that adds up the time spent inside it."""

    num_classes = None

    def __init__(self, net: torch.nn.Module) -> None:
        self.net, self.seconds = net, 0.0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pass on to the network."""
        start = now(x.device)
        v = self.net(x, t)
        self.seconds += now(x.device) - start
        return v


def now(device: torch.device) -> float:
    """Wall-clock time once the device has caught up."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def plain_euler(
    net: torch.nn.Module, seeds: list[int], shape: tuple[int, ...], steps: int, device: torch.device
) -> Tensor:
    """Sample without measuring anything."""
    x = seeded_noise(seeds, shape).to(device)
    for i in range(steps):
        x = x + net(x, torch.full((len(x),), i / steps, device=device)) / steps
    return x


def main() -> None:
    """Measure and print three lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--single", type=int, default=4, help="samples drawn one at a time")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device, shape = torch.device(args.device), (3, 32, 32)
    torch.manual_seed(0)
    net = UNet().to(device).eval()
    sampler, seeds = Sampler(steps=args.steps, kts=KTS.preset("balanced")), list(range(args.batch))

    def clock(task: Callable[[], object]) -> float:
        start = now(device)
        task()
        return now(device) - start

    def measured(chosen: list[int], network: object = net) -> None:
        draw(network, chosen, shape=shape, sampler=sampler, device=device)  # type: ignore[arg-type]

    clock(lambda: plain_euler(net, seeds, shape, 1, device))
    tasks = (lambda: plain_euler(net, seeds, shape, args.steps, device), lambda: measured(seeds))
    runs = []
    for turn in range(args.repeats):  # in turns, each first as often as the other
        first, second = clock(tasks[turn % 2]), clock(tasks[1 - turn % 2])
        runs.append((second, first) if turn % 2 else (first, second))
    plain, ours = (statistics.median(column) for column in zip(*runs, strict=True))
    ratio = statistics.median(mine / theirs for theirs, mine in runs)
    clocked = Clocked(net)
    whole = clock(lambda: measured(seeds, clocked))
    single = clock(lambda: [measured([seed]) for seed in seeds[: args.single]]) / max(1, min(args.single, args.batch))
    print(
        f"plain loop {plain:.3f} s, draw with energies and shaping {ours:.3f} s: "
        f"median ratio {ratio:.4f} of {args.repeats} pairs"
    )
    print(f"of draw, outside the network: {100 * (1 - clocked.seconds / whole):.3f} %")
    each = ours / args.batch
    print(f"one at a time {single:.3f} s a sample, in a batch {each:.3f} s: {single / each:.2f} times faster")


if __name__ == "__main__":
    main()
