"""The energy balance of every validation: told, written and logged, the same after the fact, or refused in one line."""

import csv
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kinetic.callbacks import BalanceCallback
from kinetic.cli.study import study
from kinetic.cli.train import train
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.memorization.balance import NUMBERS
from kinetic.memorization.energy_onset import Excess, ExcessHistory, find_energy_onset
from kinetic.models.opening import open_empirical
from kinetic.report import write_report
from kinetic.studies.plane import plane_of
from kinetic.trust import STRANGER
from tests.conftest import merged
from tests.test_ddp import run as started

BALANCE = {"class_path": "kinetic.callbacks.BalanceCallback"}
REPORT = {"class_path": "kinetic.callbacks.ReportCallback"}
TOY = {
    "network": {"class_path": "kinetic.nn.MLP", "init_args": {"dim": 2, "width": 16, "depth": 2}},
    "data": {"class_path": "kinetic.data.Toy", "init_args": {"batch_size": 8, "num_train": 40, "num_val": 40}},
    "model": {"samples": {"num": 16, "batch_size": 4}, "sampler": {"method": "euler", "steps": 8}},
    "trainer": {"max_steps": 8, "val_check_interval": 4, "callbacks": [BALANCE, REPORT]},
}


def rows(run: Path) -> list[dict]:
    return pq.read_table(run / "balance.parquet").to_pylist()


def logged(run: Path) -> list[dict]:
    with open(run / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("balance/excess")]


def trained(config: Path, *options: str) -> Path:
    train(["--config", str(config), "--run.name", "made", "--run.wandb", "disabled", *options])
    os.environ.pop("KINETIC_RUN", None)
    return Path("runs/made")


@pytest.fixture
def digits(tiny):
    """A run on digits of ten classes, three of each to be drawn, with its balance at steps 5 and 10."""
    return trained(
        tiny(
            network={"init_args": {"num_classes": 10}},
            data={"init_args": {"num_train": 60, "num_val": 200}},
            model={"samples": {"num": 30, "batch_size": 10}},
            trainer={"callbacks": [BALANCE], "max_steps": 10},
        )
    )


@pytest.mark.filterwarnings("ignore")
def test_study_finds_what_the_callback_found(digits, capsys):
    """The same samples, images, times, noises and weights, by two ways."""
    last = [row for row in rows(digits) if row["step"] == 10]
    study(["balance", "made", "--num", "30", "--images", "256", "--steps", "4", "--batch-size", "7"])
    folder = digits / "studies" / "balance"
    with open(folder / "table.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["of"] for row in written] == ["all", *(f"class {label}" for label in range(10))]
    assert [row["label"] for row in last] == [None, *range(10), *[None] * 10]
    same = {"spent": "power", "A": "conditional", "excess_low": "excess_low", "training_less_held_out": "gap"}
    for one, other in zip(written, last, strict=False):
        for mine, theirs in {**same, "held_out": "held_out", "training": "train", "excess": "excess"}.items():
            assert float(one[mine] or "nan") == pytest.approx(other[theirs], rel=1e-4, abs=1e-3, nan_ok=True)
        assert "0-29" in one["protocol_seeds"]
    with open(folder / "over_t.csv", newline="") as file:
        over_t = list(csv.DictReader(file))
    for one, other in zip(over_t, last[11:], strict=True):
        for name in ("t", "power", "held_out", "excess", "gain"):
            assert float(one[name]) == pytest.approx(other[name], rel=1e-4, abs=1e-3)
    said = capsys.readouterr().out
    assert f"Samples spend {float(written[0]['spent']):.4g}" in said
    assert "studies/balance/report.html, balance.png; the numbers are in" in said
    assert (folder / "balance.png").stat().st_size > 10_000
    assert "protocol" in (folder / "report.html").read_text()


@pytest.mark.filterwarnings("ignore")
def test_rows_agree_with_one_another_and_with_the_log(digits):
    table = rows(digits)
    assert [row["step"] for row in table if row["t"] is None and row["label"] is None] == [5, 10]
    for row in table:
        if row["t"] is None and math.isfinite(row["excess_low"]):
            assert row["excess"] == pytest.approx(row["power"] - row["held_out"])
            assert row["excess_low"] < row["excess"] < row["excess_high"]
            assert row["gap"] == pytest.approx(row["train"] - row["held_out"])
            assert row["gap_low"] < row["gap"] < row["gap_high"]
    whole = [row for row in table if row["t"] is None and row["label"] is None]
    for row, line in zip(whole, logged(digits), strict=True):
        for name in ("conditional", "held_out", "train", "excess", "excess_low", "excess_high"):
            assert float(line[f"balance/{name}"]) == pytest.approx(row[name], rel=1e-6), name
    over_time = [row for row in table if row["t"] is not None and row["step"] == 10]
    assert [row["t"] for row in over_time] == pytest.approx([0.05 + 0.1 * i for i in range(10)])
    assert sum(row["held_out"] for row in over_time) / 10 == pytest.approx(whole[1]["held_out"], rel=0.1)


@pytest.mark.filterwarnings("ignore")
def test_two_processes_find_what_one_finds(tiny):
    """Weights stand still, so that both have the same; images are dealt out, samples too."""
    config = tiny(**TOY, optimizer={"init_args": {"lr": 0.0}})
    one = rows(trained(config))
    done = started(config, "--run.name", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert done.returncode == 0, done.stderr[-3000:]
    two = rows(Path("runs/two"))
    assert len(one) == len(two) == 2 * 11
    for a, b in zip(one, two, strict=True):
        assert (a["label"], a["t"], a["gain"] is None) == (b["label"], b["t"], b["gain"] is None)
        for name in NUMBERS[:-1]:
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6, nan_ok=True), name


SHAPED = merged(TOY, {"model": {"sampler": {"kts": {"alpha": 0.01, "beta": 0.01}}}})
GUIDED = {"network": {"init_args": {"num_classes": 10}}, "model": {"sampler": {"guidance": 2.0}}}
FEW = {
    "data": {
        "class_path": "kinetic.data.Folder",
        "init_args": {"path": ".", "grayscale": True, "batch_size": 8, "size": 8, "num_val": 4},
    }
}
WATCHED = {"trainer": TOY["trainer"]}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (SHAPED, "shaped samples leave the marginals of the path"),
        (GUIDED | WATCHED, "guidance 2 leaves the marginals of the path"),
        (FEW | WATCHED, "8 held-out images are needed at least, and . has 4; hold out more"),
    ],
)
def test_where_the_identity_does_not_hold_one_line_says_so(tiny, capsys, changes, why):
    for i in range(24):
        Image.new("L", (8, 8), 10 * i).save(f"{i}.png")
    run = trained(tiny(**changes))
    told = [line for line in capsys.readouterr().err.splitlines() if "energy balance" in line]
    assert len(told) == 1, told
    assert why in told[0]
    assert not (run / "balance.parquet").exists()
    assert not logged(run)


@pytest.mark.filterwarnings("ignore")
def test_report_has_both_charts_and_the_numbers(tiny):
    run = trained(tiny(**TOY))
    page = (run / "report.html").read_text()
    assert 'id="balance"' in page
    for words in ("Energy balance", "balance-training", "balance-time", "held-out balance", "95 % interval"):
        assert words in page, words
    (run / "balance.parquet").write_bytes(b"PAR1 and nothing more")
    page = write_report(run).read_text()
    assert "balance.parquet" in page
    assert "balance-training" not in page


@pytest.mark.filterwarnings("ignore")
def test_study_follows_the_closed_form_field_and_refuses_what_does_not_balance(tiny, capsys):
    run = trained(tiny(**TOY))
    study(["balance", "made", "--empirical", "--num", "32", "--steps", "16", "--out", "there"])
    found = json.loads(Path("there/study.json").read_text())
    assert found["protocol"]["empirical"] is True
    assert found["table"]["held_out"][0] < found["table"]["training"][0] < found["table"]["A"][0]
    said = capsys.readouterr().out
    assert "training images of runs/made" in said
    assert "field.png" in said
    assert Image.open("there/field.png").size[0] > 1000
    alone = Path("alone.ckpt")
    alone.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    for args, why in (
        (["balance", "--checkpoint", str(alone)], "lies in no run"),
        (["balance", "made", "--num", "0"], "--num"),
        (["balance", "made", "--bins", "0"], "--bins must be 1 to 100"),
        (["energy", "made"], "unknown study"),
    ):
        with pytest.raises(KineticError, match=why):
            study(args)
    assert not (run / "studies").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_field_of_points_leads_to_training_points_where_it_is_their_closed_form(tiny):
    """Kills: rows swapped, times turned round, endpoints that are velocities."""
    run = trained(tiny(**TOY))
    data = open_data(run, STRANGER)
    found = plane_of(open_empirical(run), data, times=(0.2, 0.98), places=50)
    assert list(found.endpoints) == ["followed", "training", "held-out"]
    assert found.places.shape == found.endpoints["held-out"].shape == (2, 50, 2)
    torch.testing.assert_close(found.endpoints["followed"], found.endpoints["training"])
    far, near = found.distances("training")
    assert near < 0.003 < 0.05 < far
    assert found.distances("held-out")[1] > 10 * near
    paired = replace(open_empirical(run), coupling="ot")
    assert list(plane_of(paired, data, places=5).endpoints) == ["followed"]


def excesses(*lows: float) -> list[Excess]:
    return [Excess(step, low + 1, low, low + 2) for step, low in enumerate(lows, 1)]


@pytest.mark.parametrize(
    ("lows", "step"),
    [
        ((-1, 0.1, 2, 3), 2),
        ((0.1, -0.1, 2, 3), 3),
        ((0.1, 2, 3, -0.5), None),
        ((-1, math.nan, 2), 3),
        ((1, math.nan), None),
        ((0.0, 0.0), None),
        ((), None),
    ],
)
def test_onset_is_where_the_interval_rises_above_zero_and_stays(lows, step):
    found = find_energy_onset(reversed(excesses(*lows)))
    assert (found and found.step) == step


@pytest.mark.parametrize(("gaps", "step"), [((1, 1, 1), 1), ((-1, 1, 1), 2), ((1, 1, -1), None), ((math.nan, 1, 1), 1)])
def test_an_excess_that_training_images_do_not_bear_out_either_is_a_poor_fit(gaps, step):
    found = find_energy_onset(Excess(i, 2, 1, 3, gap) for i, gap in enumerate(gaps, 1))
    assert (found and found.step) == step


def test_history_survives_a_checkpoint_and_a_step_measured_twice(tmp_path):
    history = ExcessHistory()
    for one in excesses(-1, 1, 2):
        history.add(one)
    other = ExcessHistory()
    other.restore(json.loads(json.dumps(history.state())))
    other.add(Excess(2, 0, -1, 1))
    other.write(tmp_path)
    assert json.loads((tmp_path / "balance.json").read_text())["step"] == 3
    assert history.onset is not None
    assert history.onset.step == 2


@pytest.mark.parametrize(
    ("settings", "why"), [({"images": 7}, "images"), ({"bins": 0}, "bins"), ({"bins": 101}, "bins")]
)
def test_settings_out_of_range_are_refused(settings, why):
    with pytest.raises(KineticError, match=why):
        BalanceCallback(**settings)
