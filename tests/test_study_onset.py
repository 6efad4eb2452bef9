"""When a recipe begins to copy: the rules on synthetic curves, quality in validations, and the command end to end."""

import csv
import itertools
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from kinetic.callbacks import MemorizationCallback, QualityCallback, StopAfterOnset
from kinetic.cli.study import study
from kinetic.cli.train import train
from kinetic.errors import KineticError
from kinetic.metrics.scaling import plateau_step, power_law
from kinetic.store.settings import SavedConfig
from kinetic.studies.onset import Setting, settings_of, training_of
from tests.conftest import TINY, merged

QUALITY = {"class_path": "kinetic.callbacks.QualityCallback"}
SMALL = {
    "network": {"class_path": "kinetic.nn.MLP", "init_args": {"dim": 2, "width": 16, "depth": 2}},
    "data": {"class_path": "kinetic.data.Toy", "init_args": {"batch_size": 8, "num_train": 40, "num_val": 40}},
    "model": {"samples": {"num": 16, "batch_size": 16}, "sampler": {"method": "euler", "steps": 4}},
    "trainer": {"max_steps": 8, "val_check_interval": 4, "callbacks": [QUALITY]},
}
HOW = {"steps": 100, "first": 10, "per_decade": 8.0, "patience": 1, "features": "pixels"}


def trained(config: Path) -> Path:
    train(["--config", str(config), "--run.name", "made", "--run.wandb", "disabled"])
    os.environ.pop("KINETIC_RUN", None)
    return Path("runs/made")


@pytest.mark.parametrize(
    ("curve", "step"),
    [
        ({1: 10.0, 2: 5.0, 4: 1.09, 8: 1.0, 16: 3.0}, 4),
        ({16: 3.0, 8: 1.0, 4: 1.11, 1: 10.0}, 8),
        ({1: math.nan, 2: 0.0, 3: 0.0}, 2),
        ({1: math.nan}, None),
        ({}, None),
    ],
)
def test_plateau_is_reached_at_the_first_step_near_the_least_distance(curve, step):
    """Kills: the step of the minimum itself, a plateau that must last, an order by insertion, NaN taken as least."""
    assert plateau_step(curve) == step


def test_power_law_is_exact_where_the_data_are_one_and_has_no_interval_from_two_points():
    """Kills: logarithms to different bases, a normal quantile, degrees of freedom n - 1."""
    found = power_law([32, 64, 128, 256], [3 * n**1.5 for n in (32, 64, 128, 256)])
    assert found.exponent.value == pytest.approx(1.5)
    assert found.factor == pytest.approx(3)
    assert found.exponent.high - found.exponent.low < 1e-6
    noisy = power_law([1, math.e, math.e**2], [1, math.e**2, math.e**2])  # slope 1, residuals (-1, 2, -1) / 3
    assert noisy.exponent.value == pytest.approx(1)
    # t quantile of one degree of freedom, 12.706, times sqrt(2/3 / 1 / 2)
    assert noisy.exponent.high - 1 == pytest.approx(12.7062 * math.sqrt(1 / 3), rel=1e-4)
    assert math.isnan(power_law([1, 2], [1, 2]).exponent.low)
    assert power_law([5, 5], [1, 2]) is None


def test_what_lies_between_two_validations_widens_the_interval():
    """Exact: slopes from the corners of all brackets. Kills: an interval as if onsets were known to the step."""
    x, y, since = [1, 2, 4], [8, 16, 32], [4, 8, 16]  # slope 1, each time may be half of it
    found = power_law(x, y, since).exponent
    ends = itertools.product(*zip(y, since, strict=True))
    corners = [np.polyfit(np.log(x), np.log(one), 1)[0] for one in ends]
    assert (found.low, found.high) == pytest.approx((min(corners), max(corners)))
    assert power_law(x, y).exponent.low == pytest.approx(1)


def test_sizes_vary_at_the_first_width_and_widths_at_the_largest_size():
    assert [one.name for one in settings_of([8, 16], [1, 0.5])] == ["n=8,width=1", "n=16,width=1", "n=16,width=0.5"]


def test_recipe_changes_in_size_width_and_monitors_alone(tmp_path):
    """Kills: heads that change in number, settings of the run's own configuration changed in place."""
    config = SavedConfig(merged(TINY, {"network": {"init_args": {"num_head_channels": 4}}}))
    made = training_of(config, Setting(size=12, width=0.5), tmp_path, **HOW).config
    arguments = made["network"]["init_args"]
    assert (arguments["model_channels"], arguments["num_head_channels"]) == (4, 2)
    assert made["data"]["init_args"]["num_train"] == 12
    assert {name for name in made if made[name] != config.values.get(name)} == {"network", "data", "run", "trainer"}
    assert config.at("data", "init_args", "num_train") == 20
    for name, why in (("data", "cannot be limited"), ("network", "cannot be scaled")):
        other = SavedConfig(merged(config.values, {name: {"class_path": "a.Other", "init_args": {}}}))
        with pytest.raises(KineticError, match=why):
            training_of(other, Setting(size=12, width=0.5), tmp_path, **HOW)


@pytest.mark.filterwarnings("ignore")
def test_quality_is_logged_at_every_validation_or_one_line_says_why_not(tiny, capsys):
    """Kills: a callback that ends training, quality of training images, a line at every validation."""
    run = trained(tiny(**SMALL))
    with open(run / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("quality/fd")]
    assert [row["step"] for row in rows] == ["4", "8"]
    assert all(float(row["quality/fd"]) > 0 and 0 <= float(row["quality/recall"]) <= 1 for row in rows)
    told = "".join(capsys.readouterr())
    assert told.count("16 samples against 2000 held-out images in features pca:2") == 1
    few = merged(SMALL, {"model": {"samples": {"num": 4}}})
    train(["--config", str(tiny("few", **few)), "--run.name", "few", "--run.wandb", "disabled"])
    os.environ.pop("KINETIC_RUN", None)
    told = [line for line in "".join(capsys.readouterr()).splitlines() if "quality is not measured" in line]
    assert len(told) == 1
    assert "at least 10 samples, got 4" in told[0]


def test_settings_out_of_range_are_refused():
    with pytest.raises(KineticError, match="images must be at least 10"):
        QualityCallback(images=9)
    with pytest.raises(KineticError, match="patience"):
        StopAfterOnset(patience=-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_study_trains_once_stops_after_the_onset_and_a_failure_is_one_note(tiny, capsys):
    """Kills: rows lost with a failed training, trainings repeated, a recipe other than the run's."""
    run = trained(tiny(**merged(SMALL, {"trainer": {"max_steps": 1, "callbacks": []}})))
    args = [
        "onset",
        "made",
        "--sizes",
        "16,10000000",
        "--widths",
        "1",
        "--training-steps",
        "12",
        "--first",
        "4",
        "--jobs",
        "2",
    ]
    study(args)
    found = json.loads((run / "studies/onset/study.json").read_text())
    assert found["table"]["n"] == [16, 10000000]
    assert found["table"]["last_step"][0] == 12
    assert "num_train" in found["table"]["note"][1]
    assert (run / "studies/onset/onset.png").stat().st_size > 10000
    made = run / "studies/onset/runs/n=16,width=1"
    assert yaml.safe_load((made / "config.yaml").read_text())["data"]["init_args"]["num_train"] == 16
    assert len((made / "subset.txt").read_text().split()) == 16
    before = (made / "checkpoints/last.ckpt").stat().st_mtime_ns
    capsys.readouterr()
    study([*args[:3], "16", *args[4:]])
    assert "0 of 1 trainings of 12 steps at most, 1 at a time: at most about 0 s" in capsys.readouterr().err
    assert (made / "checkpoints/last.ckpt").stat().st_mtime_ns == before
    for option, value, why in (
        ("--sizes", "1,a", "--sizes"),
        ("--widths", "1,0", "--widths"),
        ("--jobs", "0", "--jobs"),
    ):
        with pytest.raises(KineticError, match=why):
            study(["onset", "made", option, value])


@pytest.mark.parametrize(("patience", "stops"), [(0, [False, False, True, True]), (1, [False, False, False, True])])
def test_training_stops_some_validations_after_the_onset(patience, stops):
    """Kills: a stop before the onset, at once, or never."""
    memorization = MemorizationCallback()
    trainer = SimpleNamespace(
        callbacks=[memorization], should_stop=False, state=SimpleNamespace(fn="fit"), sanity_checking=False
    )
    found = []
    for step in (5, 10, 20, 40):
        onset = SimpleNamespace(at=SimpleNamespace(step=20)) if step >= 20 else None
        memorization.history = SimpleNamespace(onset=onset, validations=[s for s in (5, 10, 20, 40) if s <= step])
        StopAfterOnset(patience=patience).on_validation_end(trainer, None)
        found.append(trainer.should_stop)
    assert found == stops
