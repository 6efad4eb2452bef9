"""Weak scaling: a training step on two gloo processes against one, each with its own batch of the same size.

    uv run benchmarks/scaling.py [--config configs/digits.yaml] [--batch-size 64] [--rounds 7] [--steps 5]

Both processes have one thread. In turns, the first takes steps alone, with the other one idle; both take steps apart,
without a word to each other; and both take steps under DistributedDataParallel. A step is loss, gradients, the
optimiser and the averaged weights. The efficiency of a round is the time of a step alone over that of a step together;
1 is perfect. That of steps apart is what the machine itself allows, and the quotient of the two what reducing costs.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from kinetic.build import build
from kinetic.flow.field import Field
from kinetic.training.averaging import AveragedNetwork
from kinetic.trust import OWN


def step_time(model: nn.Module, net: nn.Module, averaged: AveragedNetwork, batch: int, steps: int) -> float:
    """Seconds of a step of `model`, which is `net` or around it; one step goes before."""
    field = Field.of(net)
    assert field.shape is not None
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5)
    labels = None if field.num_classes is None else torch.zeros(batch, dtype=torch.int64)
    x, target = torch.randn(2, batch, *field.shape)
    t = torch.rand(batch)
    for number in range(steps + 1):
        if number == 1:
            start = time.perf_counter()
        mse_loss(model(x, t, labels), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(net)
    return (time.perf_counter() - start) / steps


def process(rank: int, store: str, options: argparse.Namespace) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    network = yaml.safe_load(options.config.read_text())["network"]
    net: nn.Module = build(network, base=nn.Module, home="kinetic.nn", trust=OWN)
    averaged = AveragedNetwork(net)
    together = DistributedDataParallel(net)
    rounds = []
    for _ in range(options.rounds):
        seconds = [step_time(net, net, averaged, options.batch_size, options.steps) if rank == 0 else 0.0]
        for model in (net, together):
            dist.barrier()
            seconds.append(step_time(model, net, averaged, options.batch_size, options.steps))
        dist.barrier()
        rounds.append(seconds)
    if rank == 0:
        report(rounds, sum(p.numel() for p in net.parameters()) * 4 / 2**20)
    dist.destroy_process_group()


def report(rounds: list[list[float]], size: float) -> None:
    """Print times, in seconds a step [alone, apart, together], and their quotients; `size` is in MiB."""
    for name, values in zip(("alone", "apart", "together"), zip(*rounds, strict=True), strict=True):
        print(f"{name:>8}: {1000 * statistics.median(values):7.1f} ms a step")
    for name, over, under in (("efficiency", 0, 2), ("of the machine", 0, 1), ("of reducing", 1, 2)):
        ratios = [seconds[over] / seconds[under] for seconds in rounds]
        print(f"{name:>14}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print(f"{size:.1f} MiB of gradients a step")


def main() -> None:
    """Start both processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/digits.yaml"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, args=(f"{folder}/store", options), nprocs=2)


if __name__ == "__main__":
    main()
