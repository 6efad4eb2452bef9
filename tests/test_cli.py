"""The command `kinetic` and its small subcommands."""

import shutil
import subprocess
import sys

import pytest

from kinetic.cli import COMMANDS, main
from kinetic.cli.train import train


def ended(*args: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(args))
    return int(done.value.code or 0)


def test_report_is_made_again_from_the_files_of_a_run(tiny, workdir):
    train(["--config", str(tiny()), "--run.name", "mine"])
    page = workdir / "runs/mine/report.html"
    assert not page.exists()  # the tiny configuration has no callbacks
    assert ended("report", "mine") == 0
    first = page.read_text()
    page.unlink()
    assert ended("report") == 0  # the newest run
    assert page.read_text() == first
    assert "val/loss" in first


def test_report_of_a_folder_of_samples(tiny, workdir, capsys):
    train(["--config", str(tiny()), "--run.name", "mine"])
    assert ended("sample", "--num", "4", "--steps", "4") == 0
    page = next(workdir.glob("runs/mine/sampling/*/report.html"))
    page.unlink()
    assert ended("report", str(page.parent)) == 0
    assert page.is_file()


def test_shards_are_written_once_and_read_back(workdir, capsys):
    assert ended("shards", "digits", "out", "--per-shard", "700") == 0
    assert len(list(workdir.glob("out/train-*.tar"))) == 2
    assert ended("shards", "out", "again", "--per-shard", "700") == 0
    before = {p.name: p.read_bytes() for p in workdir.glob("out/*.tar")}
    assert {p.name: p.read_bytes() for p in workdir.glob("again/*.tar")} == before
    assert ended("shards", "digits", "out") == 1  # refuses to mix
    shutil.rmtree("again")


@pytest.mark.parametrize(
    "args", [["shards", "nothing", "out"], ["shards"], ["report", "nothing"], ["report"], ["what"]]
)
def test_bad_input_is_one_line(workdir, capsys, args):
    assert ended(*args) != 0
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_help_names_every_command(capsys):
    assert ended("--help") == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_a_trusted_file_of_the_current_folder_is_found_and_no_other(tiny, workdir, monkeypatch):
    """Kills: a current folder that is not looked into, or that comes before what is installed."""
    train(["--config", str(tiny()), "--run.name", "mine"])
    (workdir / "ours.py").write_text(
        "from kinetic import Measure\n\n\nclass Last(Measure):\n    name, unit = 'last', ''\n\n"
        "    def step(self, state, now, dt):\n        return now.x.flatten(1)[:, 0]\n\n"
        "    def result(self, state, end):\n        return state\n"
    )
    (workdir / "wandb.py").write_text("raise SystemExit('the current folder came first')")
    monkeypatch.setattr("sys.path", [place for place in sys.path if place not in ("", str(workdir))])
    few = ("--num", "4", "--steps", "4", "--measure", "ours.Last")
    assert ended("sample", "mine", *few) == 1
    assert ended("sample", "mine", *few, "--trust", "ours") == 0
    assert "last" in next(workdir.glob("runs/mine/sampling/*/energies.csv")).read_text().split("\n")[0]


def test_help_into_a_pipe_that_closes_early_is_no_fault():
    """Kills: the traceback of a broken pipe."""
    code = f"{sys.executable} -m kinetic train --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
