"""Trials of the kill bench, and what of several processes and exact resume it does not try.

`uv run benchmarks/kill.py` does 20 of them, at random. `faults` and `differences` of the bench are what fails here.
"""

import csv
import random
import signal
from pathlib import Path

import pytest

from benchmarks.kill import Bench, trial
from tests.test_ddp import NETWORKS

LAST = "checkpoints/last.ckpt"


def at(number: signal.Signals, file: str, count: int, when: str, whom: str = "main") -> dict[str, object]:
    return {"signal": int(number), "whom": whom, "file": file, "count": count, "when": when}


def check(folder: Path, processes: int, *steps: dict[str, object]) -> None:
    happened, wrong, longest = trial(Bench(folder, timeout=60), "trial", processes, False, list(steps))
    assert not wrong, f"{happened}; {wrong}"
    assert happened.count(";") == len(steps) - 1
    assert "not met" not in happened
    assert longest <= 10


@pytest.mark.slow
def test_run_killed_before_its_first_checkpoint_and_at_half_written_ones_ends_as_if_it_never_was(tmp_path):
    """Fails without copies made good at resume, without renaming, and where left-over files stay."""
    check(
        tmp_path,
        1,
        at(signal.SIGKILL, LAST, 1, "half"),
        at(signal.SIGKILL, "checkpoints/best.ckpt", 1, "half"),
        at(signal.SIGKILL, LAST, 6, "after"),  # of the last step: training does not start again
    )


@pytest.mark.slow
def test_run_killed_while_a_row_of_metrics_is_appended_ends_as_if_it_never_was(tmp_path):
    """Fails where a line that was cut stays, or makes the file a damaged one."""
    check(
        tmp_path,
        1,
        at(signal.SIGKILL, "metrics.csv", 5, "half"),
        at(signal.SIGKILL, "metrics.csv", 3, "half"),
        at(signal.SIGKILL, "metrics.csv", 2, "before"),
    )


@pytest.mark.slow
def test_run_interrupted_at_any_time_loses_no_row_and_goes_on(tmp_path):
    """Fails where a row is not in metrics.csv before its checkpoint, or a request to stop ends a step early."""
    chance = random.Random(5)
    check(
        tmp_path,
        1,
        {"signal": int(signal.SIGINT), "whom": "main", "seconds": chance.uniform(0.0, 0.4)},
        at(signal.SIGTERM, LAST, 2, "half"),
    )


@pytest.mark.slow
def test_two_processes_end_together_in_one_line_and_go_on(tmp_path):
    """Fails without the watch over partners (hangs, lines of gloo) and without an agreement on when to stop."""
    check(
        tmp_path,
        2,
        at(signal.SIGKILL, "metrics.csv", 3, "half", "other"),
        at(signal.SIGINT, LAST, 2, "half", "all"),
        at(signal.SIGTERM, "metrics.csv", 3, "after", "other"),
    )


def losses(path: Path) -> list[float]:
    with open(path, newline="") as file:
        return [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [1, 3])
def test_validation_loss_is_the_mean_over_samples_on_any_number_of_processes(tiny, workdir, held_out):
    """Fails where each process weighs the same; the one step moves nothing, so all validate the same weights."""
    config = tiny(
        optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}},
        network=NETWORKS["dit with classes"],
        data={"init_args": {"num_val": held_out}},
        trainer={"max_steps": 1, "val_check_interval": 1},
    )
    found = {}
    for processes in (1, 2):
        root = workdir / f"of-{processes}" / "runs"
        ended = Bench(workdir, timeout=60).start(root, ["--config", str(config), "--run.name", "run"], processes, {})
        assert ended.status == 0, ended.stderr[-3:]
        found[processes] = losses(root / "run" / "metrics.csv")
    assert len(found[1]) == 1
    assert found[2] == pytest.approx(found[1], rel=1e-6)
