"""Tables that are damaged, replaced or missing when a run goes on: one line tells, and later rows are stored."""

import csv
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinetic.callbacks import Checkpoints, KPECallback, MemorizationCallback
from kinetic.store.tables import StepTable
from kinetic.training.loggers import MetricsCSV
from tests.scripted import Data, Scripted, trainer


def table(path: Path, steps: tuple[int, ...] = (1, 2, 3)) -> Path:
    whole = StepTable(path)
    for step in steps:
        whole.write(step, {"seed": [0, 1], "value": [0.5, float(step)]})
    return path


def other(path: Path, **columns: object) -> None:
    pq.write_table(pa.table(columns), path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:40] = bytes(36)
    path.write_bytes(data)


DAMAGE = {
    "cut": cut,
    "flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("step,seed,value\n"),
    "without steps": lambda path: other(path, seed=[1], value=[1.0]),
    "without a column": lambda path: other(path, step=[1], value=[1.0]),
    "steps that are text": lambda path: other(path, step=["1"], seed=[1], value=[1.0]),
    "steps that are floats": lambda path: other(path, step=[1.0], seed=[1], value=[1.0]),
    "steps that are missing": lambda path: other(path, step=pa.array([1, None]), seed=[1, 2], value=[1.0, 2.0]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_table_is_set_aside_and_later_rows_are_stored(tmp_path, damage):
    path = table(tmp_path / "t.parquet")
    DAMAGE[damage](path)
    bytes_before = path.read_bytes()
    again = StepTable(path, resume_step=2, columns=("seed", "value"))
    trouble = again.take_trouble()
    assert trouble is not None
    assert trouble.startswith("t.parquet is damaged or another table (")
    assert trouble.endswith("): it is set aside as t.parquet.damaged, and a new one begins")
    assert "\n" not in trouble
    assert again.take_trouble() is None
    assert (tmp_path / "t.parquet.damaged").read_bytes() == bytes_before
    again.write(3, {"seed": [0], "value": [7.0]})
    assert pq.read_table(path).to_pydict() == {"step": [3], "seed": [0], "value": [7.0]}


def test_columns_of_other_types_are_found_at_the_next_write(tmp_path):
    path = tmp_path / "t.parquet"
    other(path, step=[1], seed=["zero"], value=[1.0])
    again = StepTable(path, resume_step=2, columns=("seed", "value"))
    assert again.take_trouble() is None
    again.write(3, {"seed": [0], "value": [7.0]})
    assert "set aside as t.parquet.damaged" in again.take_trouble()
    again.write(4, {"seed": [0], "value": [8.0]})
    assert pq.read_table(path).column("step").to_pylist() == [3, 4]
    assert pq.read_table(tmp_path / "t.parquet.damaged").column("seed").to_pylist() == ["zero"]


def test_a_new_column_is_no_damage(tmp_path):
    again = StepTable(table(tmp_path / "t.parquet"), resume_step=2, columns=("seed", "value"))
    again.write(3, {"seed": [0], "value": [7.0], "turning": [1.0]})
    assert again.take_trouble() is None
    assert pq.read_table(tmp_path / "t.parquet").column("turning").to_pylist() == [None] * 4 + [1.0]


def test_missing_table_is_told_of_where_there_should_be_one(tmp_path):
    assert StepTable(tmp_path / "t.parquet", resume_step=2).trouble is None
    assert StepTable(tmp_path / "t.parquet", expected=True).trouble is None
    trouble = StepTable(tmp_path / "t.parquet", resume_step=2, expected=True).trouble
    assert trouble == "t.parquet is missing: its rows up to step 2 are gone, later ones are stored"


def logged(folder: Path) -> Path:
    log = MetricsCSV(folder)
    for step in (1, 2, 3):
        log.log_metrics({"train/loss": float(step), "epoch": 0}, step=step)
    log.flush()
    return log.path


METRICS = {
    "empty": b"",
    "binary": b"\x00\xff\xfe" * 20,
    "another table": b"a,b\n1,2\n",
    "cut in a row": b"step,epoch,train/loss\n1,0,1.0\n2,0\n",
    "too many cells": b"step,epoch,train/loss\n1,0,1.0,7\n",
    "step that is no number": b"step,epoch,train/loss\none,0,1.0\n",
    "no step": b"step,epoch,train/loss\n,0,1.0\n",
    "value that is no number": b"step,epoch,train/loss\n1,0,high\n",
    "a step twice": b"step,epoch,train/loss\n1,0,1.0\n1,0,1.0\n",
    "a column twice": b"step,epoch,train/loss,train/loss\n1,0,1.0,1.0\n",
    "open quotes": b'step,epoch,train/loss\n1,0,"1.0\n',
}


@pytest.mark.parametrize("damage", METRICS)
def test_damaged_metrics_are_set_aside_at_the_first_save_and_later_rows_are_stored(tmp_path, damage, capsys):
    path = logged(tmp_path)
    path.write_bytes(METRICS[damage])
    again = MetricsCSV(tmp_path, resume_step=2)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]  # nothing is written before the run has begun
    assert capsys.readouterr().err == ""
    for step in (3, 4):
        again.log_metrics({"train/loss": 30.0, "epoch": 0}, step=step)
        again.flush()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("metrics.csv is damaged (")
    assert "it is set aside as metrics.csv.damaged" in told
    assert (tmp_path / "metrics.csv.damaged").read_bytes() == METRICS[damage]
    with open(path, newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "4"]


def test_missing_metrics_are_told_of_and_whole_ones_are_not(tmp_path, capsys):
    logged(tmp_path)
    whole = MetricsCSV(tmp_path, resume_step=3)
    whole.log_metrics({"train/loss": 30.0}, step=4)
    whole.flush()
    assert capsys.readouterr().err == ""
    whole.path.unlink()
    again = MetricsCSV(tmp_path, resume_step=4)
    again.log_metrics({"train/loss": 30.0}, step=5)
    again.flush()
    assert capsys.readouterr().err == "metrics.csv is missing: what was logged up to step 4 is gone\n"


@pytest.mark.parametrize("what", ["damaged", "missing"])
def test_resumed_run_tells_of_each_table_and_goes_on(tmp_path, what):
    def monitors():
        return KPECallback(media_every=0), MemorizationCallback(media_every=0), Checkpoints()

    trainer(tmp_path, *monitors(), steps=4, every=2, enable_checkpointing=True).fit(Scripted(), datamodule=Data())
    names = ("kpe.parquet", "profiles.parquet", "memorization.parquet")
    present = [name for name in names if (tmp_path / name).is_file()]
    assert {"kpe.parquet", "memorization.parquet"} <= set(present)
    for name in present:
        if what == "damaged":
            cut(tmp_path / name)
        else:
            (tmp_path / name).unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed = trainer(tmp_path, *monitors(), steps=8, every=2, enable_checkpointing=True)
        resumed.fit(Scripted(), datamodule=Data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    for name in present:
        lines = [str(w.message) for w in caught if str(w.message).startswith(f"{name} is {what}")]
        assert len(lines) == 1
        assert set(pq.read_table(tmp_path / name).column("step").to_pylist()) == {6, 8}
        assert (tmp_path / f"{name}.damaged").is_file() == (what == "damaged")
