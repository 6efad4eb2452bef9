"""Share of the default run's wall time that its loggers, monitors and validations take.

    uv run benchmarks/run_overhead.py [--steps 3000]

One run of configs/digits.yaml under Lightning's profiler. Everything that is not the training step itself is counted:
callbacks, loggers, the validation loop with its samples.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from lightning.pytorch.profilers import SimpleProfiler

from kinetic.cli.train import TrainCLI, shipped


class Shares(SimpleProfiler):
    """Sums of wall time, nested calls counted once."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.seconds: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Start the clock of an outermost action."""
        if not _counts(action_name):
            return
        self.depth += 1
        if self.depth == 1:
            self.begun = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Stop it."""
        if not _counts(action_name):
            return
        self.depth -= 1
        if self.depth == 0:
            kind = "callbacks" if action_name.startswith("[Callback]") else "validation"
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - self.begun


def _counts(name: str) -> bool:
    return name.startswith("[Callback]") or "validation_step" in name


def main() -> None:
    """Run and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory() as folder:
        args = ["--config", str(shipped("digits")), "--run.root", folder, "--trainer.max_steps", str(steps)]
        cli = TrainCLI(args, stem="overhead", resume=None)
        cli.check()
        cli.open_folder()
        profiler = Shares()
        cli.trainer.profiler = profiler
        logging = _time_loggers(cli)
        start = time.perf_counter()
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        wall = time.perf_counter() - start
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink())
    shares = {**profiler.seconds, "loggers": logging["seconds"]}
    print(f"{steps} steps in {wall:.1f} s; run folder {size / 2**20:.1f} MiB")
    for name, seconds in shares.items():
        print(f"{name:12s}{seconds:8.2f} s  {seconds / wall:6.1%}")
    print(f"{'together':12s}{sum(shares.values()):8.2f} s  {sum(shares.values()) / wall:6.1%}")


def _time_loggers(cli: TrainCLI) -> dict[str, float]:
    """Time every call of `log_metrics` outside callbacks."""
    total = {"seconds": 0.0}

    def timed(call):  # type: ignore[no-untyped-def]
        def wrapper(*args, **kwargs):  # type: ignore[no-untyped-def]
            start = time.perf_counter()
            call(*args, **kwargs)
            total["seconds"] += time.perf_counter() - start

        return wrapper

    for logger in cli.trainer.loggers:
        logger.log_metrics = timed(logger.log_metrics)  # type: ignore[method-assign]
    return total


if __name__ == "__main__":
    main()
