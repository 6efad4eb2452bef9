"""What a training would cost, told before it starts."""

import resource
import time

import torch
from lightning.pytorch import Trainer
from torch.nn.functional import mse_loss

from kinetic.data import FlowDataModule
from kinetic.module import FlowMatching


def dry_run(module: FlowMatching, data: FlowDataModule, trainer: Trainer, *, repeats: int = 3) -> None:
    """Print parameters, batch, steps, the memory of one training step and the expected time."""
    module.trainer = trainer
    data.trainer = trainer
    module.setup("fit")
    loader = data.train_dataloader()
    device = trainer.strategy.root_device
    module.to(device)
    batch = next(iter(loader))
    x, labels = batch["x"].to(device), None if module.num_classes is None else batch["labels"].to(device)
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with trainer.precision_plugin.train_step_context():
            t = torch.rand(len(x), device=device)
            loss = mse_loss(module.net(x.to(next(module.net.parameters()).dtype), t, labels).float(), x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    step = min(seconds[1:])
    steps = trainer.max_steps if trainer.max_steps > 0 else len(loader) * (trainer.max_epochs or 1)
    trained = sum(p.numel() for p in module.net.parameters() if p.requires_grad)
    print(f"parameters      {trained:,} trained ({trained * 4 / 2**20:.1f} MiB in float32)")
    print(f"training set    {len(data.subset_ids):,} images of shape {tuple(data.shape)}")
    print(f"batch           {data.batch_size} in all, {len(x)} at a time on each of {trainer.world_size} devices")
    print(f"steps           {steps:,}, {len(loader):,} batches an epoch")
    print(f"memory          {_memory(device) / 2**20:,.0f} MiB at the peak of a training step, on {device}")
    print(f"time            {step * 1000:.0f} ms a batch, {_clock(step * steps)} without validation")


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
