"""The CSV that is always there, and W&B that never stops a run."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from kinetic.training.loggers import MetricsCSV
from kinetic.training.wandb_account import wandb_mode


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_a_step_and_new_columns_do_not_break_old_rows(tmp_path):
    log = MetricsCSV(tmp_path)
    log.log_metrics({"train/loss": 1.0, "epoch": 0}, step=1)
    log.log_metrics({"val/loss": 2.0, "epoch": 0}, step=1)
    log.log_metrics({"train/loss": 0.5, "epoch": 1}, step=2)
    log.finalize("success")
    assert rows(tmp_path) == [
        {"step": "1", "epoch": "0", "train/loss": "1.0", "val/loss": "2.0"},
        {"step": "2", "epoch": "1", "train/loss": "0.5", "val/loss": ""},
    ]


def test_csv_of_a_resumed_run_drops_what_will_be_trained_again(tmp_path):
    log = MetricsCSV(tmp_path)
    for step in (1, 2, 3):
        log.log_metrics({"train/loss": float(step)}, step=step)
    log.save()
    again = MetricsCSV(tmp_path, resume_step=2)
    again.log_metrics({"train/loss": 30.0}, step=3)
    again.save()
    assert [row["train/loss"] for row in rows(tmp_path)] == ["1.0", "2.0", "30.0"]


def test_mode_is_decided_from_what_there_is(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["CI", "NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_mode("auto") == wandb_mode("online") == ("offline", "no account is set up")
    assert wandb_mode("disabled") == ("disabled", None)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert wandb_mode("auto") == ("offline", "there is no network to 127.0.0.1:9")
    monkeypatch.setattr("kinetic.training.wandb_account.reachable", lambda host: host == "http://127.0.0.1:9")
    assert wandb_mode("auto") == ("online", None)
    monkeypatch.setenv("CI", "true")
    assert wandb_mode("auto") == ("offline", "CI is set")
    assert wandb_mode("online") == ("online", None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == ("disabled", None)


def test_without_account_or_network_a_run_ends_well_and_says_how_to_sync(tiny, workdir):
    config = tiny(trainer={"max_steps": 6})
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k not in ("CI", "KINETIC_RUN")}
    env |= {"HOME": str(workdir / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kinetic", "train", "--config", str(config), "--run.name", "offline"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "W&B logs offline (no account is set up); to upload later: wandb sync" in done.stderr
    run = workdir / "runs/offline"
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    assert len(rows(run)) == 6
    assert (run / "wandb-run.json").is_file()
