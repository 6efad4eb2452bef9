"""Audits: what scores are worth, the copy score, membership, and the command from end to end."""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kinetic.cli.audit import audit
from kinetic.cli.train import train
from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.memorization.copy_score import CopyScore, plain_score, signals_of
from kinetic.memorization.detectors import Posterior, posterior
from kinetic.memorization.membership import Membership
from kinetic.metrics.detection import detection, mean_estimate
from kinetic.metrics.statistics import auroc
from kinetic.samples.export import write_columns
from kinetic.tensors import seeded_noise


def test_detection_counts_what_brute_force_counts() -> None:
    draw = np.random.default_rng(3)
    score = np.r_[draw.normal(1, 1, 40), draw.normal(0, 1, 200)].round(1)  # ties
    positive = np.r_[np.ones(40, bool), np.zeros(200, bool)]
    found = detection(score, positive, repeats=200)
    yes, no = score[positive], score[~positive]
    pairs = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    assert found.auroc.value == pytest.approx(pairs)
    assert found.auroc.value == pytest.approx(auroc(torch.tensor(score), torch.tensor(positive)))
    for rate, estimate in ((0.01, found.tpr_at_1), (0.05, found.tpr_at_5)):
        best = max((yes > t).mean() for t in np.r_[no, -9.0] if (no > t).mean() <= rate)
        assert estimate.value == pytest.approx(best)
    assert found.auroc.low < found.auroc.value < found.auroc.high
    assert (found.positives, found.negatives) == (40, 200)
    assert detection(score, positive, repeats=200) == found  # its resampling is seeded
    broken = detection(np.r_[score, np.nan], np.r_[positive, True], repeats=200)
    assert broken == found
    assert np.isnan(detection(score, np.zeros(240, bool)).auroc.value)


def test_interval_holds_the_true_area_as_often_as_it_says() -> None:
    from scipy.stats import norm

    draw, true, held = np.random.default_rng(0), float(norm.cdf(1 / np.sqrt(2))), 0
    for seed in range(60):
        score = np.r_[draw.normal(1, 1, 60), draw.normal(0, 1, 60)]
        area = detection(score, np.arange(120) < 60, repeats=100, seed=seed).auroc
        held += area.low <= true <= area.high
    assert held >= 51
    few = mean_estimate(np.r_[np.zeros(50), np.ones(50), np.nan])
    assert few.value == 0.5
    assert 0.3 < few.low < 0.45 < 0.55 < few.high < 0.7


def parts(values: list[float]) -> list[Posterior]:
    x = torch.tensor(values)
    return [Posterior(x, x + 1, x + 2), Posterior(x * 2, x, x)]


def test_signals_are_logarithms_and_the_plain_score_compares_with_before() -> None:
    signals = signals_of(parts([1.0, 0.0, float("nan")]), parts([2.0, 2.0, 2.0]))
    assert list(signals) == ["spread", "error", "bias", "spread_before", "error_before", "bias_before"]
    assert signals["spread"][[0, 3]] == pytest.approx([0, np.log(2)])
    assert np.isfinite(signals["spread"][1])  # no spread at all is a very small one
    assert np.isnan(signals["spread"][2])
    name, score = plain_score(signals)
    assert "earlier" in name
    assert score[0] == pytest.approx(np.log(2))
    assert plain_score(signals_of(parts([3.0])))[1][0] == pytest.approx(-np.log(3))


def test_copy_score_finds_the_odds_that_made_the_copies_and_survives_json(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    signals = {"spread": draw.normal(5, 2, 20_000), "error": draw.normal(-1, 0.5, 20_000)}
    odds = -1 - 1.5 * (signals["spread"] - 5) + 2 * (signals["error"] + 1)
    copied = draw.random(20_000) < 1 / (1 + np.exp(-odds))
    found = CopyScore.fit(signals, copied, fitted_on="a run")
    assert np.abs(found.log_odds(signals) - odds).max() < 0.6
    assert found.probability(signals).mean() == pytest.approx(copied.mean(), abs=0.002)
    again = CopyScore.from_dict(json.loads(json.dumps(found.to_dict())), source="score.json")
    assert again == found
    with pytest.raises(KineticError, match="needs 'error'"):
        found.log_odds({"spread": signals["spread"]})
    with pytest.raises(KineticError, match="10 copies"):
        CopyScore.fit(signals, np.zeros(20_000, bool), fitted_on="a run")
    for wrong in ([], {"names": ["spread"]}, {**found.to_dict(), "scale": [0, 1]}, {**found.to_dict(), "mean": [1]}):
        with pytest.raises(KineticError, match=r"score\.json"):
            CopyScore.from_dict(wrong, source="score.json")


def test_field_of_its_training_set_gives_its_members_away() -> None:
    points = 3 * seeded_noise(range(40), (16,))
    field = Field.of(EmpiricalVelocity(points[:20]), shape=(16,))
    found = Membership.join([Membership.of(field, points[:25]), Membership.of(field, points[25:])])
    torch.testing.assert_close(
        torch.from_numpy(found.loss).float(), posterior(field, points, t=0.7).error, rtol=1e-4, atol=1e-5
    )
    member = np.arange(40) < 20
    worth = {name: detection(score, member).auroc.value for name, score in found.scores().items()}
    assert worth["loss"] == 1
    assert worth["calibrated_loss"] > 0.95
    assert worth["sima"] > 0.95  # the noise it sees in a clean member is none
    assert found.sima[:20].max() < 1e-2 < found.sima[20:].min()


@pytest.fixture
def run(tiny) -> Path:
    """A run that overfits six points, which its samples then copy, with checkpoints on the way."""
    config = tiny(
        network={"class_path": "kinetic.nn.MLP", "init_args": {"dim": 2, "width": 64, "depth": 3}},
        data={"class_path": "kinetic.data.Toy", "init_args": {"batch_size": 64, "num_train": 12, "num_val": 40}},
        optimizer={"init_args": {"lr": 3e-3}},
        run={"checkpoint_every": 100, "keep_every": 20},
        model={"samples": {"num": 0}, "ema_decay": 0.9},
        trainer={"max_steps": 160, "val_check_interval": 160, "log_every_n_steps": 50},
    )
    for name, seed in (("made", 3), ("other", 4)):
        train(["--config", str(config), "--run.name", name, "--run.wandb", "disabled", "--seed_everything", str(seed)])
        os.environ.pop("KINETIC_RUN", None)
    return Path("runs/made")


QUICK = ["--num", "96", "--steps", "16", "--accelerator", "cpu"]


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore")
def test_audits_without_training_data_then_with_it_then_by_another_run(run, capsys, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("kinetic.cli.audit.open_data", lambda *_: pytest.fail("training data was opened"))
        audit(["made", *QUICK])
    summary = json.loads((run / "audit/summary.json").read_text())
    assert summary["auroc"] is summary["f_mem"] is summary["f_mem_true"] is None
    assert (summary["score"], summary["evaluations"], summary["samples"]) == ("spread", 8, 96)
    scores = rows(run / "audit/scores.csv")
    assert [int(row["seed"]) for row in scores] == list(range(96))
    assert float(scores[5]["score"]) == pytest.approx(-float(scores[5]["spread"]))
    assert "copied" not in scores[0]
    assert "--verify" in capsys.readouterr().out

    audit(["other", *QUICK, "--verify", "--before", "20"])  # its samples are drawn, then asked and searched
    summary = json.loads(Path("runs/other/audit/summary.json").read_text())
    assert 0 < summary["auroc"]["low"] <= summary["auroc"]["value"] <= summary["auroc"]["high"] <= 1
    assert 0.1 < summary["f_mem_true"]["value"] < 0.95
    assert set(summary["membership"]) == {"loss", "calibrated_loss", "sima"}
    assert summary["evaluations"] == 16
    copied = [float(row["copied"]) == 1 for row in rows(Path("runs/other/audit/scores.csv"))]
    assert np.mean(copied) == pytest.approx(summary["f_mem_true"]["value"])
    assert "membership: loss" in capsys.readouterr().out

    audit(["made", *QUICK, "--before", "20", "--fit", "other"])
    found = json.loads((run / "audit/summary.json").read_text())
    assert "fitted on runs/other" in found["score"]
    chances = [float(row["probability"]) for row in rows(run / "audit/scores.csv")]
    assert found["f_mem"]["value"] == pytest.approx(np.mean(chances))
    assert "estimated without training data" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_refusals_are_one_line(run, tmp_path) -> None:
    alone = Path("alone.ckpt")
    alone.write_bytes((run / "checkpoints/last.ckpt").read_bytes())
    for args, why in (
        (["made", "--fit", "nobody"], "kinetic audit nobody --verify"),
        (["made", "--before", "17"], "kept no checkpoint of step 17"),
        (["made", "--before", str(alone)], "no earlier checkpoint"),
        (["made", "--num", "0"], "--num"),
        (["--checkpoint", str(alone), "--verify"], "lies in no run"),
        (["made", "--images", "0"], "--images"),
    ):
        with pytest.raises(KineticError, match=why):
            audit([*args, "--accelerator", "cpu"])
    assert not (run / "audit").exists()


def test_seeds_are_written_whole(tmp_path: Path) -> None:
    seeds = [2**53 - 1, np.int64(12345678901)]
    write_columns(tmp_path / "a.csv", {"seed": seeds, "x": [1 / 3, math.nan], "y": ["a", None]})
    assert (tmp_path / "a.csv").read_text() == "seed,x,y\n9007199254740991,0.333333333,a\n12345678901,,\n"
