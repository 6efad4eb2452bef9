"""`sample` where fields are made of others: what the user types, what is written, and how it says no."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import kinetic.samples.drawing
from kinetic.cli import main
from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.data.opening import open_data, training_images
from kinetic.flow.composition import away_from, hand_over
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import calibrated
from kinetic.memorization.earlier import controls_of, earlier_checkpoint, kept_checkpoints, onset_step
from kinetic.models.opening import open_checkpoint
from kinetic.store.files import sha256
from kinetic.store.tables import StepTable
from kinetic.trust import STRANGER
from tests.conftest import TINY, inside, merged
from tests.test_sample_command import refused

QUICK = ["--accelerator", "cpu", "--steps", "8"]
CHANGES = {
    "run": {"keep_every": 2},
    "trainer": {"max_steps": 6, "val_check_interval": 6},
    "model": {"samples": {"num": 0}},
    "optimizer": {"init_args": {"lr": 0.05}},  # so that checkpoints differ
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on different images, with checkpoints at the steps 2, 4 and 6, the onset at 5, and a measured gain."""
    with inside(tmp_path_factory.mktemp("composed")) as home:
        for name, seed in (("other", 8), ("run", 3)):
            Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, {**CHANGES, "seed_everything": seed})))
            train(["--config", "tiny.yaml", "--run.name", name])
        run = home / "runs/run"
        (run / "onset.json").write_text(json.dumps({"step": 5}))
        gains = {"label": [None, None, None], "t": [None, 0.25, 0.75], "gain": [9.0, 1.0, 0.4], "held_out": [1.0] * 3}
        table = StepTable(run / "balance.parquet")
        table.write(6, gains)
        table.write(7, {**gains, "gain": [9.0, 0.1, 0.1]})  # of a part that the checkpoint knows nothing of
    return home


@pytest.fixture
def run(trained, workdir):
    shutil.copytree(trained / "runs", workdir / "runs", symlinks=True)
    return workdir / "runs/run"


def rows(file):
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def column(file, name):
    return [float(row[name]) for row in rows(file)]


def test_hand_over(run, capsys):
    sample(["run", "--hand-over", "before-onset", "--from", "0.5", "--kts", "balanced", "--num", "5", *QUICK])
    out = run / "sampling/hand-over-balanced"
    late, before = (open_checkpoint(run / f"checkpoints/{name}.ckpt").field for name in ("last", "step=4"))
    record = yaml.safe_load((out / "sample.yaml").read_text())["settings"]
    sampler = Sampler.from_dict(record["samplers"]["samples"])
    exact = draw(hand_over(late, before, at=0.5), range(5), sampler=sampler)
    for name in ("energy", "energy_late", "energy_before"):
        assert column(out / "energies.csv", name) == pytest.approx(exact.columns[name].tolist(), rel=1e-5), name
    assert column(out / "energies.csv", "nfe") == [8] * 5
    assert record["sha256"] == sha256(run / "checkpoints/last.ckpt")
    assert record["composed"]["hand-over"]["before"]["sha256"] == sha256(run / "checkpoints/step=4.ckpt")
    said = capsys.readouterr().out
    assert "handed over at t = 0.5 to runs/run/checkpoints/step=4.ckpt at step 4" in said
    assert "--compare off,hand-over --from 0.5 --before before-onset" in said
    assert "energy before" in (out / "report.html").read_text()
    options = ["run", "--hand-over", "before-onset", "--kts", "balanced", "--num", "5", *QUICK]
    assert "(from 0.5, now 0.6)" in refused(capsys, *options, "--from", "0.6")
    assert "other settings (sha256 " in refused(capsys, *options[:2], "2", *options[3:], "--from", "0.5")


def test_away_from(run, capsys):
    sample(["run", "--away-from", "training", "--num", "4", *QUICK])
    base = open_checkpoint(run / "checkpoints/step=4.ckpt").field
    late = open_checkpoint(run / "checkpoints/last.ckpt").field
    found = column(run / "sampling/away-from-training/energies.csv", "energy_training")
    images = training_images(open_data(run, STRANGER)).whole()
    field = Field.of(EmpiricalVelocity(images), shape=base.shape)
    own = away_from(base, field, name="training", weight=0.3, between=(0.1, 0.8))
    assert found == pytest.approx(draw(own, range(4), sampler=Sampler(steps=8)).energy_training.tolist(), rel=1e-4)
    late_too = ["run", "--away-from", "late", "--before", "2"]
    sample([*late_too, "--weight", "0.5", "--between", "0-0.5", "--num", "4", *QUICK])
    two = open_checkpoint(run / "checkpoints/step=2.ckpt").field
    drawn = draw(away_from(two, late, weight=0.5, between=(0, 0.5)), range(4), sampler=Sampler(steps=8))
    out = run / "sampling/away-from-late/energies.csv"
    assert column(out, "energy") == pytest.approx(drawn.energy.tolist(), rel=1e-5)
    assert column(out, "nfe") == [12] * 4
    sample([*late_too, "--weight", "0", "--num", "4", "--out", "zero", *QUICK])
    sample(["--checkpoint", str(run / "checkpoints/step=2.ckpt"), "--num", "4", "--out", "two", *QUICK])
    assert Path("zero/samples.npz").read_bytes() == Path("two/samples.npz").read_bytes()
    sample(["run", "--away-from", "late", "--index", "3", *QUICK])
    assert "energy_late" in capsys.readouterr().out


def test_calibrated(run, capsys):
    sample(["run", "--kts", "calibrated", "--floor", "0.5", "--num", "3", *QUICK])
    record = yaml.safe_load((run / "sampling/calibrated/sample.yaml").read_text())
    expected = calibrated([0.25, 0.75], [1.0, 0.4], floor=0.5)
    assert record["settings"]["samplers"]["samples"]["kts"]["gains"] == [list(pair) for pair in expected.gains]
    assert "floor must lie above 0" in refused(capsys, "run", "--kts", "calibrated", "--floor", "0", *QUICK)
    assert "run other has no balance.parquet" in refused(capsys, "other", "--kts", "calibrated", *QUICK)
    (run / "balance.parquet").write_bytes(b"PAR1")
    assert "damaged or another table" in refused(capsys, "run", "--kts", "calibrated", *QUICK)


NAMES = ["off", "balanced", "calibrated", "hand-over", "away-from-late", "away-from-training"]


def test_a_comparison_of_fields_is_continued_where_it_was_interrupted(run, monkeypatch, capsys):
    names = ",".join(NAMES)
    options = [
        "run",
        "--compare",
        names,
        "--cleaner",
        "other",
        "--num",
        "6",
        "--batch-size",
        "3",
        "--before",
        "2",
        *QUICK,
    ]
    sample([*options, "--out", "whole"])
    said = capsys.readouterr()
    table = {row["setting"]: row for row in rows("whole/compare.csv")}
    stops = [f"off to t = {t}" for t in ("0.98", "0.97", "0.925", "0.85")]
    checkpoints = [
        "checkpoint of step 4",
        "checkpoint of step 2",
    ]  # before the onset, and what others are composed with
    drawn = [*NAMES, *stops, *checkpoints]
    derived = [f"{stop}, divided by t" for stop in stops] + [f"off, noise as {name}" for name in NAMES[1:]]
    assert list(table) == [*drawn, *derived]
    assert [table[name]["evaluations"] for name in ("off", "away-from-late", "hand-over")] == ["8", "16", "8"]
    assert all(row["f_mem_cleaned"] != "" and float(row["f_mem_cleaned_high"]) > 0 for row in table.values())
    assert {name for name, row in table.items() if row["verdict"]} == set(NAMES[1:])
    assert said.out.count("moved ") >= 5
    assert "F_mem cleaned" in said.out
    assert "F_mem cleaned" in Path("whole/report.html").read_text()
    plain = draw(open_checkpoint(run / "checkpoints/step=4.ckpt").field, range(6), sampler=Sampler(steps=8))
    assert float(table["checkpoint of step 4"]["energy"]) == pytest.approx(float(plain.energy.mean()), rel=1e-4)
    calls, write = [], kinetic.samples.drawing.write_part

    def cut(path, part):
        calls.append(path)
        if len(calls) == 9:
            raise KeyboardInterrupt
        write(path, part)

    monkeypatch.setattr(kinetic.samples.drawing, "write_part", cut)
    with pytest.raises(SystemExit):
        main(["sample", *options, "--out", "cut"])
    sample([*options, "--out", "cut"])
    assert len(calls) == 2 * len(drawn) + 1
    for name in ("compare.csv", "energies.csv", "samples.parquet"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert "(weight 0.25, now 0.5)" in refused(capsys, *options, "--weight", "0.5", "--out", "cut")


FAULTS = [
    (["--hand-over", "before-onset", "--from", "1"], "--from must lie strictly between 0 and 1, got 1.0"),
    (["--hand-over", "3"], "kept no checkpoint of step 3; name a checkpoint's file, or one of the steps 2, 4, 6"),
    (["--hand-over", "nosuch.ckpt"], "no checkpoint 'nosuch.ckpt'"),
    (["--hand-over", "2", "--before", "4"], "--hand-over and --before do not go together"),
    (["--hand-over", "2", "--away-from", "late"], "--hand-over and --away-from do not go together"),
    (["--hand-over", "2", "--weight", "1"], "--weight goes with away-from-late, away-from-training alone"),
    (["--hand-over", "2", "--compare", "off"], "--compare and --hand-over do not go together"),
    (["--empirical", "--hand-over", "2"], "--empirical and --hand-over do not go together"),
    (["--empirical", "--compare", "off,hand-over"], "--empirical has no hand-over"),
    (["--empirical", "--kts", "calibrated"], "--empirical has no calibrated"),
    (["--from", "0.5"], "--from goes with hand-over alone"),
    (["--away-from", "early"], "--away-from is late or training, got 'early'"),
    (["--away-from", "late", "--weight", "-1"], "--weight must be a finite number of at least 0, got -1.0"),
    (["--away-from", "late", "--between", "0.5"], "--between takes two times such as 0.1-0.8, got '0.5'"),
    (["--away-from", "late", "--between", "0.8-0.1"], "--between must be two times that rise in [0, 1], got 0.8-0.1"),
    (["--kts", "calibrated", "--alpha", "0.1"], "--alpha and --kts calibrated do not go together"),
    (["--kts", "balanced", "--floor", "0.1"], "--floor goes with calibrated alone"),
    (["--cleaner", "other"], "--cleaner goes with --compare alone"),
    (["--compare", "off", "--cleaner", "run"], "--cleaner was trained on the same images"),
    (["--compare", "off,nosuch"], "unknown setting 'nosuch'; choose from off, balanced"),
]


@pytest.mark.parametrize(("options", "words"), FAULTS, ids=[" ".join(o) for o, _ in FAULTS])
def test_fault_is_one_line_and_writes_nothing(run, capsys, options, words):
    assert words in refused(capsys, "run", *options, *QUICK)
    assert not (run / "sampling").exists()


def test_without_an_onset_or_a_checkpoint_before_it(run, capsys):
    options = ["run", "--hand-over", "before-onset", *QUICK]
    (run / "onset.json").write_text(json.dumps({"step": None}))
    assert "run has no onset" in refused(capsys, *options)
    (run / "balance.json").write_text(json.dumps({"step": 2, "value": 1.0}))
    said = refused(capsys, *options)
    assert "kept no checkpoint before its onset at step 2" in said
    assert "--run.keep_every" in said
    lone = shutil.copy(run / "checkpoints/last.ckpt", "lone.ckpt")
    assert "lies in no run" in refused(capsys, "--checkpoint", str(lone), "--away-from", "training", *QUICK)
    shutil.copy(run / "checkpoints/step=4.ckpt", "four.ckpt")
    sample(["--checkpoint", "lone.ckpt", "--hand-over", "four.ckpt", "--num", "2", *QUICK])


def test_checkpoints_that_do_not_go_together(run, capsys):
    config = merged(TINY, {**CHANGES, "network": {"init_args": {"num_classes": 10}}, "run": {"name": "classes"}})
    Path("classes.yaml").write_text(yaml.safe_dump(config))
    train(["--config", "classes.yaml", "--trainer.max_steps", "2"])
    other = "runs/classes/checkpoints/last.ckpt"
    assert "fields of another number of classes cannot be combined" in refused(
        capsys, "run", "--hand-over", other, *QUICK
    )
    classes = ["--labels", "0,1", "--guidance", "2"]
    sample(["classes", "--away-from", "training", "--before", other, "--num", "4", *classes, *QUICK])
    assert np.isfinite(column("runs/classes/sampling/away-from-training/energies.csv", "energy_training")).all()


def test_which_checkpoints_there_are(run):
    assert list(kept_checkpoints(run)) == [2, 4, 6]
    assert onset_step(run) == 5
    assert list(controls_of(run, 6)) == [4]
    (run / "checkpoints/before-onset.ckpt").write_bytes((run / "checkpoints/last.ckpt").read_bytes())
    (run / "checkpoints/step=6.ckpt").unlink()
    assert kept_checkpoints(run)[6].name == "before-onset.ckpt"
    (run / "onset.json").write_text(json.dumps({"step": 3}))
    assert earlier_checkpoint(run, "before-onset").name == "step=2.ckpt"
    assert list(controls_of(run, 9)) == [2, 4, 6]
    assert list(controls_of(run, 9, most=2)) == [2, 4]
    (run / "onset.json").write_text(json.dumps({"step": 5}))
    assert earlier_checkpoint(run, "before-onset").name == "step=4.ckpt"
    shutil.copy(run / "checkpoints/step=2.ckpt", run / "checkpoints/before-onset.ckpt")  # 4 came after that validation
    assert earlier_checkpoint(run, "before-onset").name == "step=2.ckpt"
    assert list(controls_of(run, 9)) == [2, 4]
    shutil.copy(run / "checkpoints/last.ckpt", run / "checkpoints/before-onset.ckpt")
    (run / "onset.json").unlink()
    assert list(controls_of(run, 9)) == [2, 4, 6]
    assert torch.load(run / "checkpoints/before-onset.ckpt", weights_only=True)["global_step"] == 6
