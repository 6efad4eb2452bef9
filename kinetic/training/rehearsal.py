"""Everything a run needs, built once before the run's folder is written to: what cannot work is found here."""

import math
import warnings
from typing import Any

from lightning.pytorch import Trainer

from kinetic.data import FlowDataModule
from kinetic.data.fit import check_fit
from kinetic.errors import KineticError, refusing
from kinetic.flow.seeds import seed_loader
from kinetic.training.module import FlowMatching
from kinetic.training.optimizers import make_optimizer


def rehearse(module: FlowMatching, data: FlowDataModule, trainer: Trainer) -> None:
    """Build optimiser, schedule, the seeds and labels of a validation, and a batch of each kind.

    The data module is set up. Raises KineticError where any of it cannot be; nothing is written.
    """
    check_fit(module.net, data)
    _check_optimizer(module, trainer)
    samples = module.samples
    if samples.num > 0:
        seeds = range(samples.first_seed, samples.first_seed + samples.num)
        seed_loader(seeds, labels=samples.labels, num_classes=module.num_classes, batch_size=samples.batch_size)
    rank, world = trainer.global_rank, trainer.world_size
    loader = data.train_loader(rank=rank, world=world, accumulate=trainer.accumulate_grad_batches)
    batch = next(iter(loader))
    _check_batch(batch, module)
    next(iter(data.val_loader(rank=rank, world=world)), None)


def _check_optimizer(module: FlowMatching, trainer: Trainer) -> None:
    trained = module.trained_parameters()
    if not trained:
        raise KineticError("the network has no parameters to train; unfreeze some of it")
    with refusing("the optimiser or its schedule"):
        optimizer, schedule = make_optimizer(
            trained,
            module.optimizer_config,
            module.scheduler_config,
            warmup_steps=module.warmup_steps,
            trust=module.trust,
        )
    for group in optimizer.param_groups:
        rate = float(group.get("lr", 0))
        if not 0 <= rate < math.inf:
            raise KineticError(f"the learning rate must be a finite number of at least 0, got {rate}")
    after = getattr(schedule, "_schedulers", [schedule])[-1]
    with refusing("the schedule"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser takes no step
        for _ in range(3 if after is not None else 0):
            after.step()
    total, steps = getattr(after, "total_steps", None), trainer.max_steps - module.warmup_steps
    if isinstance(total, int) and trainer.max_steps > 0 and total < steps:
        raise KineticError(
            f"the schedule ends after total_steps={total:,} steps, but {steps:,} are trained under it; "
            f"pass total_steps of {steps} or more"
        )


def _check_batch(batch: dict[str, Any], module: FlowMatching) -> None:
    x, labels = batch["x"], batch.get("labels")
    bad = [name for name, row in zip(batch["ids"], x, strict=True) if not row.isfinite().all()]
    if bad:
        raise KineticError(f"image {bad[0]} has values that are not finite; mend it or leave it out")
    if module.num_classes is not None and labels is None:
        raise KineticError("the network has classes, but the images have no labels; set num_classes to null")
