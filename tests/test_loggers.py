"""The CSV that is always there, and W&B that never stops a run."""

import csv
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kinetic.store import files
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
    log.flush()
    again = MetricsCSV(tmp_path, resume_step=2)
    again.log_metrics({"train/loss": 30.0}, step=3)
    again.flush()
    assert [row["train/loss"] for row in rows(tmp_path)] == ["1.0", "2.0", "30.0"]


class Counting:
    """Counts the bytes that go through the files which `kinetic.store.files` opens."""

    written = 0

    def __call__(self, *args, **kwargs):
        self.file = io.open(*args, **kwargs)  # noqa: SIM115, UP020 (its own name is patched)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        done = self.file.write(data)
        self.written += done
        return done

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def counting(monkeypatch):
    count = Counting()
    monkeypatch.setattr(files, "open", count, raising=False)
    return count


def refuse(*args):
    raise AssertionError("the file is written anew")


def test_a_routine_save_writes_the_new_rows_alone_and_holds_back_the_newest(tmp_path, counting, monkeypatch):
    """Kills: rewriting the file at a save, and writing a row that may still get cells."""
    log = MetricsCSV(tmp_path)
    for step in range(1000):
        log.log_metrics({"train/loss": 0.5}, step=step)
    log.save()
    assert [row["step"] for row in rows(tmp_path)] == list(map(str, range(999)))
    before = log.path.read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    for step in (1000, 1001):
        log.log_metrics({"train/loss": 0.25, "epoch": 1}, step=step)
        log.save()
    appended = b"999,,0.5\r\n1000,1,0.25\r\n"
    assert log.path.read_bytes() == before + appended
    assert counting.written == len(appended)
    log.finalize("success")
    assert log.path.read_bytes() == before + appended + b"1001,1,0.25\r\n"


def test_what_is_logged_again_writes_nothing_and_cells_that_come_late_are_in_their_row(tmp_path, monkeypatch):
    """Kills: a second row of a step, and an older row that loses its cells."""
    log = MetricsCSV(tmp_path)
    for step in (1, 2):
        log.log_metrics({"train/loss": 1.0, "val/loss": 2.0}, step=step)
    log.flush()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        patched.setattr(files, "open", refuse, raising=False)
        log.log_metrics({"train/loss": 1.0}, step=2)
        log.flush()
    log.log_metrics({"val/loss": 3.0}, step=2)  # the last row
    log.flush()
    assert log.path.read_bytes() == b"step,epoch,train/loss,val/loss\r\n1,,1.0,2.0\r\n2,,1.0,3.0\r\n"
    log.log_metrics({"val/loss": 4.0, "kpe/mean": 5.0}, step=1)  # an older one, and a new column
    log.flush()
    log.log_metrics({"kpe/mean": 6.0}, step=3)
    log.flush()
    names = b"step,epoch,train/loss,val/loss,kpe/mean\r\n"
    assert log.path.read_bytes() == names + b"1,,1.0,4.0,5.0\r\n2,,1.0,3.0,\r\n3,,,,6.0\r\n"


@pytest.mark.parametrize("cut", range(1, 24))
def test_csv_cut_anywhere_in_what_was_appended_goes_on_as_if_it_never_was(tmp_path, cut):
    """Kills: a damaged file where only its last line is cut, and rows that are appended behind half a line."""
    names = ("whole", "part")
    logs = [MetricsCSV(tmp_path / name) for name in names]
    for log in logs:
        for step in (1, 2):
            log.log_metrics({"train/loss": 0.5, "epoch": 0}, step=step)
            log.flush()
    begun = logs[0].path.read_bytes()
    assert logs[1]._size == len(begun)
    for step in (3, 4):
        logs[0].log_metrics({"train/loss": 0.25, "epoch": 0}, step=step)
        logs[0].flush()
    whole = logs[0].path.read_bytes()
    logs[1].path.write_bytes(whole[: len(begun) + cut])
    again = MetricsCSV(tmp_path / "part", resume_step=2)
    for step in (3, 4):
        again.log_metrics({"train/loss": 0.25, "epoch": 0}, step=step)
        again.flush()
    assert again.path.read_bytes() == whole
    assert [path.name for path in again.path.parent.iterdir()] == ["metrics.csv"]


def test_a_full_disk_leaves_whole_lines_and_is_told(tmp_path, monkeypatch):
    """Kills: half a line that the next rows are appended to."""
    log = MetricsCSV(tmp_path)
    log.log_metrics({"train/loss": 0.5}, step=1)
    log.flush()

    class Full(Counting):
        def write(self, data):
            if self.written:
                raise OSError(errno.ENOSPC, "full")
            return super().write(data[:3])

    log.log_metrics({"train/loss": 0.5}, step=2)
    with monkeypatch.context() as patched:
        patched.setattr(files, "open", Full(), raising=False)
        with pytest.raises(OSError, match=r"no space left to write .*metrics.csv; free some"):
            log.flush()
    assert log.path.read_bytes() == b"step,epoch,train/loss\r\n1,,0.5\r\n"
    log.finalize("failed")
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


def test_a_file_that_another_hand_changed_keeps_its_rows(tmp_path):
    """Kills: appending at a place that is no longer the end."""
    log = MetricsCSV(tmp_path)
    log.log_metrics({"train/loss": 0.5}, step=1)
    log.flush()
    with open(log.path, "ab") as file:
        file.write(b"2,,0.125\r\n")
    log.log_metrics({"train/loss": 0.25}, step=3)
    log.flush()
    assert [row["train/loss"] for row in rows(tmp_path)] == ["0.5", "0.125", "0.25"]
    log.path.unlink()
    log.log_metrics({"train/loss": 0.0}, step=4)
    log.flush()
    assert [row["step"] for row in rows(tmp_path)] == ["4"]


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
