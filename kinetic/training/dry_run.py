"""What a training would cost, told before it starts."""

import time
from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.text import duration
from kinetic.training.module import FlowMatching

MIB = 2**20


def dry_run(module: FlowMatching, data: FlowDataModule, trainer: Trainer, *, repeats: int = 3) -> None:
    """Print parameters, batch, steps, the memory of one training step and the expected time."""
    module.trainer = trainer
    loader = data.train_loader(world=trainer.world_size, accumulate=trainer.accumulate_grad_batches)
    device = trainer.strategy.root_device
    module.to(device)
    batch = next(iter(loader))
    x, labels = batch["x"].to(device), None if module.num_classes is None else batch["labels"].to(device)
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    seconds, activations = [], 0
    for _ in range(repeats + 1):
        start, kept = time.perf_counter(), Kept()
        t = torch.rand(len(x), device=device)
        with trainer.precision_plugin.train_step_context(), torch.autograd.graph.saved_tensors_hooks(kept, _same):
            loss = module.errors(module.net, torch.randn_like(x), x, t, labels).mean()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        activations = kept.bytes
    fastest = min(seconds[1:])
    batches = len(loader) * (trainer.max_epochs or 1)
    if trainer.max_steps > 0:
        batches = trainer.max_steps * trainer.accumulate_grad_batches
    weights = _bytes(module.state_dict().values())
    gradients = _bytes(p.grad for p in module.net.parameters() if p.grad is not None)
    state = _bytes(v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor))
    trained = sum(p.numel() for p in module.net.parameters() if p.requires_grad)
    print(f"parameters    {trained:,} trained")
    print(f"training set  {len(data.subset_ids):,} images of shape {tuple(data.shape)}")
    print(f"batch         {data.batch_size} in all, {len(x)} at a time on each of {trainer.world_size} device(s)")
    print(f"steps         {batches // trainer.accumulate_grad_batches:,}, {len(loader):,} batches an epoch")
    print(
        f"memory        {(weights + gradients + state + activations) / MIB:,.0f} MiB on each device: weights and their"
        f" average {weights / MIB:,.0f}, gradients {gradients / MIB:,.0f}, optimiser {state / MIB:,.0f},"
        f" activations {activations / MIB:,.0f}"
    )
    print(f"time          {fastest * 1000:.0f} ms a batch, {duration(fastest * batches)} without validation")


class Kept:
    """Counts the bytes of the distinct tensors that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen: set[int] = set()

    def __call__(self, tensor: Tensor) -> Tensor:
        """Count `tensor`, which is kept as it is; weights are kept anyway."""
        storage = tensor.untyped_storage()
        if not tensor.is_leaf and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
