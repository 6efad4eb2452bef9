"""Import of public checkpoints: torchcfm's own networks with random weights against ours, and the time that it takes.

    uv run --group bench benchmarks/importing.py [--large]

Prints for each file its size, the seconds of `kinetic import`'s work (reading, checking, translating, writing), and the
largest difference of the two networks' outputs relative to the largest output. `--large` adds files of the sizes of
SiT-XL/2 (675 M parameters, bare and as training writes it), for the time alone.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from unet_step import torchcfm_unet

from kinetic.models.checkpoint import write_checkpoint
from kinetic.models.importing import imported
from kinetic.models.opening import open_checkpoint
from kinetic.nn import DiT
from kinetic.text import aligned

BATCH = 4


def shaken(net: nn.Module) -> nn.Module:
    """Give every weight a random value, the zero ones too."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    return net.eval()


def timed(path: Path, **options: Any) -> tuple[Path, float]:
    """Import a file as the command does; where our checkpoint lies, and the seconds."""
    began, ours = time.perf_counter(), path.with_suffix(".ckpt")
    write_checkpoint(imported(path, **options).checkpoint, ours)
    return ours, time.perf_counter() - began


def compared(folder: Path, classes: int | None) -> list[str]:
    """One row: torchcfm's CIFAR-10 network, unconditional or with classes."""
    theirs = shaken(torchcfm_unet(num_classes=classes, class_cond=classes is not None))
    weights = theirs.state_dict()
    state = {"net_model": weights, "ema_model": {f"module.{k}": v for k, v in weights.items()}, "step": 400_000}
    path = folder / f"torchcfm-{classes}.pt"
    torch.save(state, path)
    ours, seconds = timed(path)
    field = open_checkpoint(ours).field
    x, t = torch.randn(BATCH, 3, 32, 32), torch.rand(BATCH)
    y = None if classes is None else torch.arange(BATCH)
    with torch.no_grad():
        expected, found = theirs(t, x) if y is None else theirs(t, x, y), field(x, t, y)
    error = float((found - expected).abs().max() / expected.abs().max())
    name = "torchcfm, CIFAR-10" + ("" if classes is None else f", {classes} classes")
    return [name, f"{path.stat().st_size / 1e6:,.0f} MB", f"{seconds:.1f} s", f"{error:.1e}"]


def large(folder: Path, *, training: bool) -> list[str]:
    """One row: a file of the size of SiT-XL/2, which is only timed."""
    weights = DiT(size="XL", num_classes=1000, learn_sigma=True).state_dict()
    path = folder / "sit.pt"
    model = {name: value.clone() for name, value in weights.items()} if training else {}
    torch.save({"model": model, "ema": weights, "opt": {}} if training else weights, path)
    ours, seconds = timed(path)
    ours.unlink()
    name = "SiT-XL/2, ema and model" if training else "SiT-XL/2, bare"
    return [name, f"{path.stat().st_size / 1e6:,.0f} MB", f"{seconds:.1f} s", "-"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="files of the size of SiT-XL/2 as well (6 GB of disk)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [compared(folder, classes) for classes in (None, 10)]
        rows += [large(folder, training=training) for training in (False, True) if options.large]
    print(aligned([["file", "size", "import", "largest relative error"], *rows]))


if __name__ == "__main__":
    main()
