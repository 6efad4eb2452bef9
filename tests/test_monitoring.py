"""Whole runs that watch themselves: order of callbacks, processes and interruptions change no figure."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from kinetic.callbacks import KPECallback, MemorizationCallback, ReportCallback
from kinetic.cli.train import train
from tests.conftest import TINY, inside, merged
from tests.scripted import Data, Scripted, trainer
from tests.test_resume import finish

ROOT = Path(__file__).parent.parent
TABLES = ("kpe", "profiles", "memorization")
WATCHING = [
    {"class_path": "kinetic.callbacks.KPECallback"},
    {"class_path": "kinetic.callbacks.MemorizationCallback"},
    {"class_path": "kinetic.callbacks.BalanceCallback"},
    {"class_path": "kinetic.callbacks.LogSpacedValidation", "init_args": {"steps": [3, 5, 9]}},
    {"class_path": "kinetic.callbacks.ReportCallback"},
    {"class_path": "tests.test_resume.Killer"},
]
LIVELY = {
    "network": {"class_path": "kinetic.nn.MLP", "init_args": {"dim": 2, "width": 16, "depth": 2}},
    "data": {"class_path": "kinetic.data.Toy", "init_args": {"batch_size": 8, "num_train": 20, "num_val": 8}},
}


def assert_same_tables(a: Path, b: Path) -> None:
    for name in TABLES:
        one, two = (pq.read_table(folder / f"{name}.parquet").to_pydict() for folder in (a, b))
        assert repr(one) == repr(two), name  # NaN equals NaN


@pytest.mark.filterwarnings("ignore")
def test_order_of_callbacks_changes_nothing(tmp_path):
    for name, order in (("a", 1), ("b", -1)):
        callbacks = [KPECallback(), MemorizationCallback()][::order]
        fit = trainer(tmp_path / name, *callbacks, steps=6, log_every_n_steps=1)
        fit.fit(Scripted(copy_at=4, broken=(3,)), datamodule=Data())
    assert_same_tables(tmp_path / "a", tmp_path / "b")
    rows = [sorted(json.dumps(r) for r in read(tmp_path / name)) for name in ("a", "b")]
    assert rows[0] == rows[1]
    for kind in ("samples", "galleries"):
        pictures = [{p.name: p.read_bytes() for p in (tmp_path / n / kind).iterdir()} for n in ("a", "b")]
        assert pictures[0] == pictures[1]


def read(folder: Path) -> list[list[tuple[str, str]]]:
    import csv

    with open(folder / "metrics.csv", newline="") as file:
        return [sorted(row.items()) for row in csv.DictReader(file)]


@pytest.mark.parametrize("kind", ["own", "listed"])
def test_two_processes_give_row_for_row_what_one_gives(tmp_path, kind):
    """Seven seeds on two ranks: one is drawn twice. Training images are in both processes, or in a file they share."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for world in ("1", "2"):
        command = [sys.executable, "-m", "tests.scripted", str(tmp_path / world), world, kind]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "1", tmp_path / "2"
    assert pq.read_table(two / "kpe.parquet").column("seed").to_pylist() == list(range(7)) * 3
    assert_same_tables(one, two)
    figures = [[dict(row) for row in read(folder) if dict(row)["kpe/mean"]] for folder in (one, two)]
    assert [{k: v for k, v in row.items() if k != "train/loss"} for row in figures[0]] == figures[1]
    for kind in ("samples", "galleries"):
        pictures = [{p.name: p.read_bytes() for p in (folder / kind).iterdir()} for folder in (one, two)]
        assert pictures[0] == pictures[1]
        assert len(pictures[0]) == 3
    assert json.loads((one / "onset.json").read_text()) == json.loads((two / "onset.json").read_text())
    assert done.stderr.count("Copying begins") == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run of a small configuration that never stopped."""
    with inside(tmp_path_factory.mktemp("whole")) as folder:
        Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, watching())))
        return folder / finish(Path("tiny.yaml"), "whole")


def watching() -> dict:
    return {**LIVELY, "trainer": {"callbacks": WATCHING}}


@pytest.mark.parametrize("where", [{"step": 4}, {"step": 5}, {"step": 8}, {"validation": 5}, {"validation": 9}])
def test_resumed_run_has_every_row_once_and_the_same(whole, tiny, where):
    part = finish(tiny(**watching()), "part", **where)
    assert pq.read_table(part / "kpe.parquet").column("step").to_pylist() == [
        s for s in (3, 5, 9, 12) for _ in range(6)
    ]
    assert_same_tables(whole, part)
    assert (whole / "metrics.csv").read_text() == (part / "metrics.csv").read_text()
    balance = [pq.read_table(run / "balance.parquet").to_pydict() for run in (whole, part)]
    assert repr(balance[0]) == repr(balance[1])
    assert (whole / "balance.json").read_text() == (part / "balance.json").read_text()
    assert (whole / "onset.json").read_text() == (part / "onset.json").read_text()


def test_run_folder_has_everything_and_the_page_says_so(whole):
    for name in ("report.html", "onset.json", "checkpoints/before-onset.ckpt", "samples/step_0000012.png"):
        assert (whole / name).is_file(), name
    page = (whole / "report.html").read_text()
    assert "Most-copied samples" in page
    meta = pq.read_schema(whole / "kpe.parquet").metadata
    assert meta[b"weights"] == b"ema"
    assert meta[b"precision"] == b"32"
    assert b'"method": "euler"' in meta[b"sampler"]


def test_signs_that_ask_the_field_again_are_measured_where_they_are_named(tiny):
    probes = [f"kinetic.memorization.detectors.{name}" for name in ("Spread", "Response")]
    changes = merged(watching(), {"model": {"samples": {"measures": probes}}, "trainer": {"max_steps": 3}})
    train(["--config", str(tiny(**changes)), "--run.name", "re", "--trust", "tests"])
    (row,) = [dict(r) for r in read(Path("runs/re")) if dict(r)["kpe/mean"]]
    for name in ("spread", "response"):
        assert -1 <= float(row[f"memorization/rho_{name}"]) <= 1
        assert float(row[f"kpe/{name}"]) > 0


def test_report_that_fails_is_one_line(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("no space left")

    monkeypatch.setattr("kinetic.report.write_report", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, ReportCallback(), steps=2).fit(Scripted(), datamodule=Data(samples=2))
    assert [str(w.message) for w in caught if "report" in str(w.message)] == [
        "writing report.html failed (no space left); training goes on"
    ]


def test_report_after_every_validation_holds_its_figures(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("kinetic.report.write_report", lambda folder: seen.append(len(read(folder))))
    fit = trainer(tmp_path, KPECallback(media_every=0), ReportCallback(every_validation=True), steps=5, every=2)
    fit.fit(Scripted(), datamodule=Data())
    assert seen == [1, 2, 2]
