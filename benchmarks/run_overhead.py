"""Share of the default run's wall time that its loggers, monitors and validations take.

    uv run benchmarks/run_overhead.py [--steps 1600]

One run of configs/digits.yaml under Lightning's profiler. Everything that is not the training step itself is counted:
callbacks, loggers, the validation loop with its samples.
"""

import argparse
import time

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import SimpleProfiler
from whole_run import profiled


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1600)
    steps, profiler, logging = parser.parse_args().steps, Shares(), {"seconds": 0.0}
    options = ("--trainer.max_steps", str(steps))
    wall, size = profiled("digits", *options, profiler=profiler, prepare=lambda t: _time_loggers(t, logging))
    shares = {**profiler.seconds, "loggers": logging["seconds"]}
    print(f"{steps} steps in {wall:.1f} s; run folder {size:.1f} MiB")
    for name, seconds in shares.items():
        print(f"{name:12s}{seconds:8.2f} s  {seconds / wall:6.1%}")
    print(f"{'together':12s}{sum(shares.values()):8.2f} s  {sum(shares.values()) / wall:6.1%}")


def _time_loggers(trainer: Trainer, total: dict[str, float]) -> None:
    """Time every call of `log_metrics` outside callbacks."""

    def timed(call):  # type: ignore[no-untyped-def]
        def wrapper(*args, **kwargs):  # type: ignore[no-untyped-def]
            start = time.perf_counter()
            call(*args, **kwargs)
            total["seconds"] += time.perf_counter() - start

        return wrapper

    for logger in trainer.loggers:
        logger.log_metrics = timed(logger.log_metrics)  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
