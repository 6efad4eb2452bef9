"""Share of a validation's time that the energy balance takes, beside that of the search for copies.

    uv run benchmarks/balance.py [--repeats 5]

Validations of the default recipe under Lightning's profiler, in one process. The floor is what it asks of the network:
an evaluation of at most 256 held-out and 256 training images, beside 256 samples × 40 steps and the held-out losses.
"""

import argparse
import statistics
import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import SimpleProfiler
from whole_run import profiled

WATCHED = ("BalanceCallback", "MemorizationCallback", "KPECallback", "ReportCallback")


class Inside(SimpleProfiler):
    """Seconds of each validation, and of callbacks inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.wall: list[float] = []
        self.inside: list[dict[str, float]] = []
        self.begun: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Start a clock."""
        self.begun[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Stop it, and count what callbacks take of a validation."""
        seconds = time.perf_counter() - self.begun.pop(action_name)
        name = next((name for name in WATCHED if action_name.startswith(f"[Callback]{name}")), None)
        if self.inside and name is not None:
            self.inside[-1][name] += seconds

    def watch(self, trainer: Trainer) -> None:
        """Clock the validations of a trainer."""
        loop: Any = trainer.fit_loop.epoch_loop.val_loop
        original = loop.run

        def run() -> Any:
            self.inside.append(dict.fromkeys(WATCHED, 0.0))
            start = time.perf_counter()
            found = original()
            self.wall.append(time.perf_counter() - start)
            return found

        loop.run = run


def main() -> None:
    """Validate several times and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats, profiler = parser.parse_args().repeats, Inside()
    steps = ("--trainer.max_steps", str(repeats), "--data.init_args.steps_per_epoch", "1")

    def every_step(trainer: Trainer) -> None:
        schedule: Any = next(c for c in trainer.callbacks if type(c).__name__ == "LogSpacedValidation")  # type: ignore[attr-defined]
        schedule.steps = frozenset(range(1, repeats + 1))
        profiler.watch(trainer)

    profiled("digits", *steps, profiler=profiler, prepare=every_step)
    print(
        f"\n{len(profiler.wall)} validations, median {statistics.median(profiler.wall):.2f} s; shares, median and range"
    )
    for name in WATCHED:
        shares = [part[name] / wall for part, wall in zip(profiler.inside, profiler.wall, strict=True)]
        print(f"{name:22s}{statistics.median(shares):7.1%}  ({min(shares):.1%} to {max(shares):.1%})")


if __name__ == "__main__":
    main()
