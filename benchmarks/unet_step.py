"""One training step of a network: the CIFAR-10 UNet against torchcfm's own, or SiT-B/2 against SiT of timm's parts.

    uv run --group bench benchmarks/unet_step.py [--device cuda] [--bf16] [--compile] [--model sit-b2]

Steps of the two networks alternate in one process, with the same weights and batch; each takes the optimiser as its
own training makes it: Adam, ours in one kernel. The figure is the median over the pairs of ours divided by theirs, so
that a machine that is busy for a while is busy for both. The floor is that of the convolutions and products alone, at
the rate of a product of square matrices in float32, measured in the same process.
"""

import argparse
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from plain_sit import PlainSiT
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinetic.nn import DiT, UNet
from kinetic.training.optimizers import make_optimizer

Step = Callable[[], None]


def torchcfm_unet(**options: Any) -> nn.Module:
    """Build torchcfm's CIFAR-10 network with further options, without importing the rest of that package."""
    if "torchcfm" not in sys.modules:
        found = importlib.util.find_spec("torchcfm")
        if found is None or not found.submodule_search_locations:
            sys.exit("torchcfm is not installed: uv run --group bench benchmarks/unet_step.py")
        package = types.ModuleType("torchcfm")
        package.__path__ = [str(Path(place)) for place in found.submodule_search_locations]
        sys.modules["torchcfm"] = package
    from torchcfm.models.unet.unet import UNetModelWrapper  # type: ignore[import-not-found]

    return UNetModelWrapper(
        dim=(3, 32, 32),
        num_channels=128,
        num_res_blocks=2,
        channel_mult=[1, 2, 2, 2],
        num_heads=4,
        num_head_channels=64,
        attention_resolutions="16",
        dropout=0.1,
        **options,
    )


def training_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    call: Callable[[], Tensor],
    target: Tensor,
    how: argparse.Namespace,
) -> Step:
    """Return a function that runs forward, backward, clipping and the optimiser once, and waits for the device."""

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(how.accumulate):
            with torch.autocast(target.device.type, dtype=torch.bfloat16, enabled=how.bf16):
                out = call()
            ((out.float() - target).square().mean() / how.accumulate).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if target.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def steps(args: argparse.Namespace) -> dict[str, Step]:
    """Build what is timed, by name."""
    torch.manual_seed(0)
    ours: UNet | DiT
    if args.model == "unet":
        ours = UNet(dropout=0.1)
        nets: dict[str, nn.Module] = {"ours": ours, "theirs": torchcfm_unet()}
        nets["theirs"].load_state_dict(ours.state_dict())
    else:
        ours = DiT(size="B", patch_size=2, num_classes=1000, learn_sigma=True)
        nets = {"ours": ours, "theirs": PlainSiT()}
        nets["theirs"].load_state_dict(ours.state_dict())
    x = torch.randn(args.batch, *ours.sample_shape, device=args.device)
    t, target = torch.rand(args.batch, device=args.device), torch.randn_like(x)
    labels = None if ours.num_classes is None else torch.arange(args.batch, device=args.device) % 1000
    made = {}
    for name, net in nets.items():
        net.to(args.device).train()
        if args.compile:
            net.compile()
        call = partial(net, t, x) if name == "theirs" and labels is None else partial(net, x, t, labels)
        ours_made, _ = make_optimizer(net.parameters())
        optimizer = ours_made if name == "ours" else torch.optim.Adam(net.parameters(), 2e-4)
        made[name] = training_step(net, optimizer, call, target, args)
    return made


def measure(made: dict[str, Step], warmup: int, rounds: int) -> dict[str, list[float]]:
    """Time the steps in turn, seconds each, the order swapped from round to round."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(warmup + rounds):
        for name in sorted(made, reverse=turn % 2 == 1):
            start = time.perf_counter()
            made[name]()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def operations(args: argparse.Namespace) -> int:
    """Floating-point operations of one batch, forward and backward."""
    net: UNet | DiT = UNet(dropout=0.1) if args.model == "unet" else DiT(size="B", patch_size=2, num_classes=1000)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(args.batch, *net.sample_shape), torch.zeros(args.batch)).sum().backward()
    return counter.get_total_flops()


def products(size: int = 2048, times: int = 8) -> float:
    """Operations a second of a product of square matrices: the best of a few."""
    a = torch.randn(size, size)
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["unet", "sit-b2"], default="unet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="run the networks under bf16 autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1, help="batches a step")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    args = parser.parse_args()
    times = measure(steps(args), args.warmup, args.rounds)
    precision = "bf16 autocast" if args.bf16 else "fp32"
    compiled = "compiled" if args.compile else "eager"
    print(
        f"{args.model}, batch {args.batch} x {args.accumulate}, {args.device}, {precision}, {compiled}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {args.rounds} interleaved steps after "
        f"{args.warmup} of warm-up"
    )
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name:>7}: median {1e3 * middle:9.2f} ms a step, {args.batch * args.accumulate / middle:8.1f} images/s")
    if "theirs" in times:
        ratios = sorted(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        if args.device == "cpu":
            floor = args.accumulate * operations(args) / products()
            print(f"  floor: {1e3 * floor:9.2f} ms a step for the convolutions and products, in float32")
        print(f"  ratio: median {statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f}), ours / theirs")


if __name__ == "__main__":
    main()
