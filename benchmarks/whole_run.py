"""One run of a recipe by the command, with a profiler inside: what benchmarks of whole runs share."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import SimpleProfiler

from kinetic.cli.train import train
from kinetic.cli.train_options import shipped


def profiled(
    recipe: str, *options: str, profiler: SimpleProfiler, prepare: Callable[[Trainer], None] | None = None
) -> tuple[float, float]:
    """Train a shipped `recipe` into a temporary folder: seconds of the fit, and MiB of the run folder.

    `prepare` is called with the trainer before it fits.
    """
    original, seconds = Trainer.fit, []

    def fit(trainer: Trainer, *args: Any, **named: Any) -> None:
        trainer.profiler = profiler  # type: ignore[attr-defined]
        if prepare is not None:
            prepare(trainer)
        start = time.perf_counter()
        original(trainer, *args, **named)
        seconds.append(time.perf_counter() - start)

    Trainer.fit = fit  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.setdefault("WANDB_MODE", "offline")
            train(["--config", str(shipped(recipe)), "--run.root", folder, *options])
            size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink())
    finally:
        Trainer.fit = original  # type: ignore[method-assign]
    return seconds[0], size / 2**20
