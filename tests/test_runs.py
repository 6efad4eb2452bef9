"""Run folders: claimed by one process, written to late, found again, and named by runs/latest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kinetic.errors import KineticError
from kinetic.store import locks
from kinetic.store.files import set_aside
from kinetic.store.locks import Lock, is_locked
from kinetic.store.runs import RunFolder, check_name, find_run, point_latest

BUSY = """
import sys, time
from pathlib import Path
from kinetic.store.runs import RunFolder
run = RunFolder.claim(Path(sys.argv[1]), sys.argv[2] or None, "x") if sys.argv[3] == "claim" else None
run = run or RunFolder.reopen(Path(sys.argv[1]) / sys.argv[2])
run.begin("a: 1", ["one"])
print("ready", flush=True)
time.sleep(60)
"""


def begun(root: Path, name: str | None) -> Path:
    run = RunFolder.claim(root, name, "x")
    run.begin("a: 1\n", ["b", "a"])
    run.step()
    run.close()
    return run.path


@pytest.fixture
def elsewhere():
    """Start a process that owns a run, until the test ends."""
    started = []

    def start(*args: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", BUSY, *args], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=10)


def test_latest_names_the_newest_run_and_names_are_not_reused(tmp_path):
    for name in ("one", "two"):
        begun(tmp_path, name)
    assert find_run(tmp_path, None).name == "two"
    assert find_run(tmp_path, "one").name == "one"
    assert find_run(tmp_path, str(tmp_path / "one")).name == "one"
    with pytest.raises(KineticError, match="exists already; continue it with --resume one"):
        RunFolder.claim(tmp_path, "one", "x")
    first, second = (begun(tmp_path, None) for _ in range(2))
    assert first != second
    assert os.readlink(tmp_path / "latest") == second.name  # relative, so that the folder can be moved


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "-a", ".a", "a\n", "a/b", "a\\b", "x" * 101, "latest", " a", "a ", "a.", "a:b", "a*", "\x00"],
)
def test_one_rule_for_names(name):
    with pytest.raises(KineticError, match="cannot name a run") as refused:
        check_name(name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["a", "my run", "lr=1e-3,seed=2", "ünï", "v1.2", "x" * 100])
def test_ordinary_names_are_fine(name):
    assert check_name(name) == name


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path, elsewhere):
    process = elsewhere(str(tmp_path), "run", "claim")
    with pytest.raises(KineticError, match=f"process {process.pid} on "):
        RunFolder.reopen(tmp_path / "run")
    with pytest.raises(KineticError, match="exists already"):
        RunFolder.claim(tmp_path, "run", "x")
    assert is_locked(tmp_path / "run")
    process.kill()
    process.wait(timeout=10)
    assert not is_locked(tmp_path / "run")
    run = RunFolder.reopen(tmp_path / "run")  # what a killed process left stands in nobody's way
    run.close()
    assert not (tmp_path / "run/.lock").exists()


def test_without_locks_of_the_system_the_process_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / ".lock").write_text(json.dumps({"process": 1, "host": locks.socket.gethostname()}))
    with pytest.raises(KineticError, match="process 1 on"):
        Lock(tmp_path, what="trained")
    (tmp_path / ".lock").write_text(json.dumps({"process": 2**22 + 1, "host": locks.socket.gethostname()}))
    Lock(tmp_path, what="trained").release()
    (tmp_path / ".lock").write_text("no json")
    Lock(tmp_path, what="trained").release()
    assert not (tmp_path / ".lock").exists()


def test_nothing_is_written_before_it_begins_and_a_start_that_fails_leaves_nothing(tmp_path):
    run = RunFolder.claim(tmp_path / "runs", "run", "x")
    assert [p.name for p in run.path.iterdir()] == [".lock"]
    run.abandon()
    assert not (tmp_path / "runs").exists()
    run.close()


def test_a_run_that_kept_something_is_not_removed(tmp_path):
    run = RunFolder.claim(tmp_path, "run", "x")
    run.begin("a: 1", ["one"])
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints/nonfinite-rank0.ckpt").touch()
    run.abandon()
    assert (run.path / "config.yaml").is_file()
    run.close()
    old = RunFolder.reopen(run.path)
    old.abandon()
    assert (run.path / "config.yaml").is_file()
    old.close()


def test_a_folder_in_which_a_run_was_killed_before_it_began_can_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").write_text("{}")
    RunFolder.claim(tmp_path, "run", "x").close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").touch()
    with pytest.raises(KineticError, match="is no run"):
        RunFolder.claim(tmp_path, "other", "x")
    (tmp_path / "file").touch()
    with pytest.raises(KineticError, match="is no run"):
        RunFolder.claim(tmp_path, "file", "x")


@pytest.mark.parametrize("make", [lambda p: p.write_text("my notes"), lambda p: p.mkdir()])
def test_latest_of_a_persons_own_is_left_alone(tmp_path, make):
    make(tmp_path / "latest")
    run = RunFolder.claim(tmp_path, "run", "x")
    run.begin("a: 1", [])
    run.step()
    run.close()
    assert "is not Kinetic's" in run.trouble
    assert not (tmp_path / "latest").is_symlink()
    with pytest.raises(KineticError, match="no run"):
        find_run(tmp_path, None)


def test_where_links_cannot_be_made_latest_is_a_small_text_file(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    for name in ("one", "two"):
        begun(tmp_path, name)
    assert not (tmp_path / "latest").is_symlink()
    assert find_run(tmp_path, None).name == find_run(tmp_path, "latest").name == "two"


def test_a_folder_of_runs_that_is_none_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", Path(" ")):
        with pytest.raises(KineticError, match=r"--run\.root"):
            RunFolder.claim(root, "run", "x")


def test_names_from_configurations_become_plain_folder_names(tmp_path):
    for stem in ("a b/c", "..", "-x", "", "y" * 300):
        path = RunFolder.claim(tmp_path, None, stem).path
        assert path.parent == tmp_path
        check_name(path.name)


def test_what_killed_processes_left_is_removed_when_the_run_goes_on(tmp_path):
    path = begun(tmp_path, "run")
    (path / "checkpoints").mkdir()
    for name in (".metrics.csv.123.tmp", "checkpoints/.last.ckpt.99.tmp", "checkpoints/mine.tmp"):
        (path / name).touch()
    run = RunFolder.reopen(path)
    run.begin("a: 1", [])
    run.close()
    assert [p.name for p in path.rglob("*.tmp")] == ["mine.tmp"]


def test_a_damaged_file_is_kept_under_another_name(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "a.parquet").write_text(content)
        set_aside(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet.damaged").read_text() == "first"
    assert (tmp_path / "a.parquet.damaged-2").read_text() == "second"


def test_pointing_where_nothing_can_be_written_says_so(tmp_path, monkeypatch):
    run = begun(tmp_path, "run")
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    assert "Read-only" in point_latest(run)
