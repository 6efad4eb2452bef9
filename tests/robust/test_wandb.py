"""Whatever W&B does, a run goes on: one line says what is amiss, and nothing waits for more than ten seconds."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from kinetic.errors import KineticError
from kinetic.training.aside import Aside
from kinetic.training.weights_and_biases import Silent, _recall, wandb_logger
from tests.wandb_server import KEY, WandbServer

REPO = Path(__file__).parent.parent.parent
SCRIPT = """
import json, sys, time
from pathlib import Path
from kinetic.training.weights_and_biases import wandb_logger
from tests.wandb_server import break_wandb

what, seconds = sys.argv[1], float(sys.argv[2])
logger = wandb_logger(Path("r"), project="p", mode="auto")
begun = time.monotonic()
logger.start()
started = time.monotonic()
logger.log_hyperparams({"lr": 0.1})
logger.experiment.summary["any"] = logger.experiment.config.get("lr", 0)
for step in range(8):
    if step == 4 and what != "nothing":
        break_wandb(what, Path("r"), seconds)
    logger.log_metrics({"loss": float(step)}, step)
finishing = time.monotonic()
logger.finalize("success")
print(json.dumps({"start": started - begun, "finish": time.monotonic() - finishing, "end": time.time()}))
"""
ONLINE = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY}
SMALL_DISK = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=400k none r/wandb && exec "$@"', "sh"]


def environment(home: Path, **changes: str) -> dict[str, str]:
    """The environment without an account of W&B, and what else would decide."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k not in ("CI", "KINETIC_RUN", "NETRC")}
    home.mkdir(parents=True, exist_ok=True)
    return env | {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)} | changes


def log(
    folder: Path,
    what: str = "nothing",
    seconds: float = 0.5,
    prefix: tuple[str, ...] = (),
    script: str = SCRIPT,
    at_exit: float = 10.0,
    **env: str,
) -> list[str]:
    """Log eight steps in a process, W&B breaking in their middle; give the lines it told. It must not wait long."""
    (folder / "r").mkdir(exist_ok=True)
    command = [*prefix, sys.executable, "-c", script, what, str(seconds)]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder / "home", **env), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    took = json.loads(done.stdout)
    assert took["start"] < 10
    assert took["finish"] < 11
    assert time.time() - took["end"] < at_exit
    return done.stderr.splitlines()


def log_here(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], **env: str) -> list[str]:
    """Log eight steps in this process; give the lines it told."""
    for name in set(os.environ) - set(environment(folder / "home")):
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(folder / "home"), **env}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    monkeypatch.chdir(folder)
    logger = wandb_logger(Path("r"), project="p", mode="auto")
    assert logger is not None
    begun = time.monotonic()
    logger.start()
    assert time.monotonic() - begun < 10
    for handler in logging.getLogger("wandb").handlers:
        if isinstance(handler, logging.FileHandler):  # that of wandb
            handler.handleError(logging.makeLogRecord({}))  # as when its file cannot be written
    logger.log_hyperparams({"lr": 0.1})
    logger.experiment.summary["any"] = logger.experiment.config.get("lr", 0)
    for step in range(8):
        logger.log_metrics({"loss": float(step)}, step)
    logger.finalize("success")
    return capfd.readouterr().err.splitlines()


def runs(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / "r/wandb").glob(pattern))


CANNOT_START: dict[str, tuple[Any, dict[str, str], str]] = {
    "refused": ("refuse", ONLINE, "the server refuses the account's key"),
    "failing": ("fail", ONLINE, "HTTP 500"),
    "hanging": ("hang", ONLINE, "the server does not answer"),
    "no key": ("answer", {"WANDB_MODE": "online"}, "no account is set up"),
    "malformed key": ("answer", {**ONLINE, "WANDB_API_KEY": "abc"}, "WANDB_API_KEY invalid"),
    "key with a space": ("answer", {**ONLINE, "WANDB_API_KEY": f" {KEY}"}, "whitespace"),
    "no server": ("answer", {**ONLINE, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "there is no network to 127.0.0.1:9"),
    "garbage for a server": ("answer", {**ONLINE, "WANDB_BASE_URL": "::no::"}, "base_url"),
    "unknown mode": ("answer", {**ONLINE, "WANDB_MODE": "onlin"}, "WANDB_MODE is 'onlin'"),
}


@pytest.mark.parametrize("case", CANNOT_START)
def test_what_cannot_start_online_starts_offline(case: str, tmp_path: Path, monkeypatch, capfd) -> None:
    mode, env, reason = CANNOT_START[case]
    with WandbServer(mode) as server:
        told = log_here(tmp_path, monkeypatch, capfd, **{"WANDB_BASE_URL": server.url, **env})
    assert len(told) == 1, told
    assert reason in told[0]
    assert [str(run.relative_to(tmp_path)) for run in runs(tmp_path, "offline-run-*")] == [told[0].split()[-1]]
    assert runs(tmp_path, "run-*") == []
    assert json.loads((tmp_path / "r/wandb-run.json").read_text())["mode"] == "offline"


BREAKS = {
    "refuse": (0.5, "did not take everything (the server answered 401)"),
    "hang": (0.5, "did not take everything (not all was uploaded in 6 s)"),
    "kill": (2.5, "stopped logging"),
    "stop": (0.5, "did not take everything (not all was uploaded in 6 s)"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_in_mid_run_is_told_once_and_what_was_logged_can_be_synced(what: str, tmp_path: Path) -> None:
    seconds, told_as = BREAKS[what]
    with WandbServer() as server:
        told = log(tmp_path, what, seconds, WANDB_BASE_URL=server.url, **ONLINE)
        assert len(told) == 1, told
        assert told_as in told[0]
        place = told[0].split()[-1]
        assert (tmp_path / place).is_dir()
        if what in ("refuse", "kill"):
            server.mode = "answer"
            assert sync(tmp_path, told[0].rpartition(": ")[2], server)["loss"] >= {0.0, 1.0, 2.0, 3.0}


def test_a_process_that_ends_without_finishing_the_run_ends(tmp_path: Path) -> None:
    unfinished = SCRIPT.replace('logger.finalize("success")\n', "")
    with WandbServer() as server:
        told = log(tmp_path, "stop", script=unfinished, at_exit=15, WANDB_BASE_URL=server.url, **ONLINE)
    assert len(told) == 1, told
    assert "did not take everything" in told[0]


def sync(folder: Path, command_line: str, server: WandbServer) -> dict[str, set[float]]:
    """Upload a run afterwards; give the values that the server got."""
    env = environment(folder / "home", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    command = [sys.executable, "-m", *command_line.split()]
    subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=60, check=True)
    return {"loss": {row["loss"] for row in server.history if "loss" in row}}


def test_an_offline_run_can_be_synced(tmp_path: Path, monkeypatch, capfd) -> None:
    told = log_here(tmp_path, monkeypatch, capfd)
    assert len(told) == 1
    with WandbServer() as server:
        assert sync(tmp_path, told[0].rpartition(": ")[2], server)["loss"] == set(map(float, range(8)))


def test_the_account_is_the_one_of_the_server_that_is_set_and_a_run_resumes_under_its_id(
    tmp_path: Path, monkeypatch, capfd
) -> None:
    with WandbServer() as server:
        (tmp_path / "home").mkdir()
        entry = tmp_path / "home/.netrc"
        entry.write_text(f"machine 127.0.0.1:{server.port}\n  login user\n  password {KEY}\n")
        entry.chmod(0o600)
        for _ in range(2):
            assert log_here(tmp_path, monkeypatch, capfd, WANDB_BASE_URL=server.url) == []
    assert server.finished
    assert [row["loss"] for row in server.history if "loss" in row] == 2 * list(map(float, range(8)))
    assert len({sent["name"] for sent in server.upserts}) == 1
    assert {sent["groupName"] for sent in server.upserts if sent["groupName"]} == {"r"}


def test_an_online_run_that_went_on_offline_is_resumed_online_again(tmp_path: Path, monkeypatch, capfd) -> None:
    with WandbServer() as server:
        log_here(tmp_path, monkeypatch, capfd, WANDB_BASE_URL=server.url, **ONLINE)
    known = (tmp_path / "r/wandb-run.json").read_text()
    told = log_here(tmp_path, monkeypatch, capfd, **ONLINE, WANDB_BASE_URL="http://127.0.0.1:9")
    assert "there is no network" in told[0]
    assert (tmp_path / "r/wandb-run.json").read_text() == known


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_disk_that_is_full_for_wandb_alone(mode: str, tmp_path: Path) -> None:
    (tmp_path / "r/wandb").mkdir(parents=True)
    if subprocess.run([*SMALL_DISK, "true"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    with WandbServer() as server:
        env = {**ONLINE, "WANDB_MODE": mode, "WANDB_BASE_URL": server.url}
        told = log(tmp_path, "fill", prefix=tuple(SMALL_DISK), **env)
    assert len(told) == 1, told
    assert "no space left on device" in told[0]


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_logged(tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r/wandb").write_text("in the way")
    told = log_here(tmp_path, monkeypatch, capfd, WANDB_MODE="offline")
    assert len(told) == 1, told
    assert told[0].startswith("W&B logs nothing (file exists); training goes on")


def test_a_whole_run_trains_although_the_server_hangs(tiny, workdir: Path) -> None:
    config = tiny(trainer={"max_steps": 4, "val_check_interval": 4})
    command = [sys.executable, "-m", "kinetic", "train", "--config", str(config), "--run.name", "r"]
    with WandbServer("hang") as server:
        env = environment(workdir / "home", WANDB_BASE_URL=server.url, **ONLINE)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line for line in re.split(r"[\r\n]+", done.stderr) if "W&B" in line or "wandb" in line]
    assert len(told) == 1, told
    assert "the server does not answer" in told[0]
    assert len((workdir / "runs/r/metrics.csv").read_text().splitlines()) == 1 + 4 + 1  # names, steps, validation
    assert len(list((workdir / "runs/r/wandb").glob("offline-run-*"))) == 1


@pytest.mark.parametrize("name", ["a?b", "", " ", "a" * 129, "a/b", "50%"])
def test_a_project_that_wandb_refuses_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(KineticError, match=r"1 to 128 characters, none of / \\ # \? % :.*--run.project"):
        wandb_logger(tmp_path, project=name, mode="offline")
    assert wandb_logger(tmp_path, project=name, mode="disabled") is None
    assert wandb_logger(tmp_path, project="a" * 128, mode="offline") is not None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"id": "a"}', '{"id": 3, "mode": "online"}', '{"id": "a/b", "mode": "online"}',
             '{"id": "a", "mode": "else"}', '{"id": "a", "mode": []}', "\x00\xff"]
)  # fmt: skip
def test_a_damaged_memory_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "wandb-run.json").write_bytes(text.encode("latin-1"))
    assert _recall(tmp_path) is None
    (tmp_path / "wandb-run.json").write_text('{"id": "a", "mode": "online"}')
    assert _recall(tmp_path) == ("a", "online")


def test_only_the_first_process_starts_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = wandb_logger(tmp_path, project="p", mode="offline")
    assert logger is not None
    logger.start()
    logger.log_metrics({"loss": 1.0}, 1)
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_silence_takes_anything() -> None:
    silent = Silent()
    silent.config["a"] = silent.log({"a": 1}).more[3]()
    assert silent.alert(title="a") is silent


def test_a_call_that_hangs_is_given_up() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer in 1 s"):
        Aside()(lambda: time.sleep(30), 0.6)
    assert time.monotonic() - begun < 5
    with pytest.raises(RuntimeError, match="SystemExit 3"):
        Aside()(lambda: sys.exit(3), 5)
