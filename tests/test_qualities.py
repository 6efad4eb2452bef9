"""Quality beside copies: figures of every setting in one pass, differences in pairs, the front, and the command."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from kinetic.data import Digits
from kinetic.errors import KineticError
from kinetic.metrics.paired import fid, paired_difference
from kinetic.metrics.quality import quality_of
from kinetic.metrics.real import RealFeatures, read_real
from kinetic.plots.pareto import Point, front
from kinetic.studies.compare import Row
from kinetic.studies.qualities import Gathered, Judge, paired_columns, resampled_figures, with_quality
from kinetic.tensors import seeded_noise


def row(name: str) -> Row:
    return Row(name, 60, 1.0, 1.0, 0.5, 0.1, 0.05, 0.2, 0.0)


def test_rows_get_figures_and_differences_from_the_first_in_pairs() -> None:
    real = RealFeatures.of(seeded_noise(range(100, 220), (5,)))
    off = seeded_noise(range(60), (5,))
    found = {"off": off, "near": off + 0.01, "far": 0.2 * off + 2}
    figures = resampled_figures(found, real)
    rows = {r.setting: r.more for r in with_quality([row(name) for name in found], figures)}
    for name, values in found.items():
        quality = quality_of(values, real)
        assert rows[name]["fd"].value == pytest.approx(quality.fid)
        assert rows[name]["precision"].value == quality.precision
        assert rows[name]["recall"].value == quality.recall
    assert "fd_from_off" not in rows["off"]
    assert rows["far"]["fd_from_off"].value == pytest.approx(rows["far"]["fd"].value - rows["off"]["fd"].value)
    near, far = rows["near"]["fd_from_off"], rows["far"]["fd_from_off"]
    assert far.low > 1  # far is worse, for certain
    assert near.high - near.low < 0.2 * rows["off"]["fd"].value  # what the seeds have in common cancels
    assert rows["near"]["recall_from_off"].quiet
    columns = paired_columns(figures, settings=["off", "far"], against=["off", "near"])
    assert list(zip(columns["setting"], columns["against"], strict=True))[::3] == [
        ("off", "near"),
        ("far", "off"),
        ("far", "near"),
    ]
    assert columns["difference"][3] == pytest.approx(paired_difference(fid, found["far"], off, real).difference)


def test_seeds_that_broke_under_one_setting_are_left_out_of_all() -> None:
    data = Digits(num_train=40, num_val=64, batch_size=8)
    judge = Judge.of(data, "pixels")
    gathered, x = Gathered(judge), seeded_noise(range(12), (1, 8, 8))
    broken = x.clone()
    broken[3] = torch.nan
    gathered.take({}, {"off": x[:6], "other": broken[:6]})
    gathered.take({}, {"off": x[6:], "other": broken[6:]})
    found = gathered.features()
    assert [len(values) for values in found.values()] == [11, 11]
    torch.testing.assert_close(found["off"], torch.cat([x[:3], x[4:]]).flatten(1))
    assert "500 held-out images in features 'pixels'" in judge.text()
    assert Judge.of(data).extractor.name == "pca:39"
    with pytest.raises(KineticError, match="unknown features"):
        Judge.of(data, "eigenfaces")


def test_front_holds_what_nothing_beats_in_both() -> None:
    points = [
        Point(str(i), f, f, f, d, False) for i, (f, d) in enumerate([(0.5, 1), (0.1, 5), (0.1, 4), (0.3, 4), (0, 9)])
    ]
    assert [p.name for p in front(points)] == ["4", "2", "0"]


@pytest.mark.filterwarnings("ignore")
def test_a_comparison_says_what_quality_costs(tiny, capsys) -> None:
    import os

    from kinetic.cli.sample import sample
    from kinetic.cli.train import train

    train(["--config", str(tiny()), "--run.name", "made", "--run.wandb", "disabled"])
    os.environ.pop("KINETIC_RUN", None)
    more = ["--num", "24", "--steps", "4", "--accelerator", "cpu", "--out", "out"]
    sample(["made", "--compare", "off,landing", "--features", "pixels", *more])
    shown = capsys.readouterr().out
    assert "against 500 held-out images in features 'pixels'" in shown
    stated = json.loads(Path("out/quality.json").read_text())
    real = read_real(next(Path("runs/made/reference").glob("pixels-held-out-*.npz")))
    assert (stated["samples"], stated["real"], stated["seeds"], stated["weights"]) == (24, 500, "0-23", "ema")
    assert (stated["extractor_hash"], stated["split"]) == (real.extractor_hash, real.split)
    with open("out/compare.csv", newline="") as file:
        rows = {line["setting"]: line for line in csv.DictReader(file)}
    assert float(rows["landing"]["fd_from_off"]) == pytest.approx(
        float(rows["landing"]["fd"]) - float(rows["off"]["fd"]), rel=1e-4
    )
    assert 0 <= float(rows["off"]["precision"]) <= 1
    assert rows["off"]["fd_from_off"] == ""
    with open("out/paired.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert {(line["setting"], line["against"]) for line in pairs} >= {("landing", "off")}
    assert Path("out/pareto.png").stat().st_size > 10_000
    assert math.isfinite(json.loads(Path("out/memorization.json").read_text())["threshold"])
    sample(["made", "--compare", "off,landing", "--features", "none", *more])
    with open("out/compare.csv", newline="") as file:
        assert "fd" not in next(csv.DictReader(file))
    with pytest.raises(KineticError, match="unknown features 'faces'"):
        sample(["made", "--compare", "off,landing", "--features", "faces", *more])
