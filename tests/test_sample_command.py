"""The command `sample` as its user meets it: what it writes, how it goes on, and how it says no."""

import csv
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import kinetic.flow.sampling
import kinetic.samples.drawing
from kinetic.cli import main
from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS
from kinetic.models.checkpoint import load_network, read_checkpoint, write_checkpoint
from kinetic.nn import UNet
from tests.conftest import TINY, inside, merged

ROOT = Path(__file__).parent.parent
CPU = ["--accelerator", "cpu"]
QUICK = [*CPU, "--steps", "4"]
CHANGES = {"plain": {}, "classes": {"network": {"init_args": {"num_classes": 10}}}}
POINTS = {
    "network": {"class_path": "kinetic.nn.MLP", "init_args": {"dim": 2, "width": 16}},
    "data": {"class_path": "kinetic.data.Toy", "init_args": {"batch_size": 8, "num_train": 50, "num_val": 6}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders with one run each: an unconditional one, one with classes, one of points."""
    home = tmp_path_factory.mktemp("trained")
    for name, changes in {**CHANGES, "points": POINTS}.items():
        (home / name).mkdir()
        config = merged(merged(TINY, changes), {"trainer": {"max_steps": 3}, "model": {"samples": {"num": 0}}})
        with inside(home / name):
            Path("tiny.yaml").write_text(yaml.safe_dump(config))
            train(["--config", "tiny.yaml", "--run.name", "run"])
    return home


@pytest.fixture
def at(trained, workdir):
    """Put a copy of a trained run into the current folder."""

    def put(name):
        shutil.copytree(trained / name / "runs", workdir / "runs", symlinks=True)
        return workdir / "runs/run"

    return put


def rows(folder):
    with open(folder / "energies.csv", newline="") as file:
        return list(csv.DictReader(file))


def pixels(folder):
    with np.load(folder / "samples.npz") as file:
        return file["arr_0"]


def refused(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["sample", *args])
    assert stop.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    return said[0]


def test_one_command_writes_everything(at, capsys):
    run = at("plain")
    sample(["--kts", "balanced", "--num", "7", "--batch-size", "3", "--format", "png,npz,shards", *QUICK])
    out = run / "sampling/balanced"
    names = {"samples.npz", "images", "shards", "energies.csv", "energies.png", "grid.png", "sample.yaml"}
    assert names | {"report.html"} <= {p.name for p in out.iterdir()}
    found = rows(out)
    assert [int(r["seed"]) for r in found] == list(range(7))
    loaded = load_network(run / "checkpoints/last.ckpt")
    assert loaded.weights == "ema"
    kts = KTS.preset("balanced")
    exact = draw(loaded.net, range(7), shape=(1, 8, 8), sampler=Sampler(steps=4, kts=kts))
    assert np.allclose([float(r["energy"]) for r in found], exact.energy, rtol=1e-5)
    assert not torch.allclose(exact.energy, exact.field_energy)
    picture = np.asarray(Image.open(out / "images/000005.png"))
    assert np.array_equal(picture, pixels(out)[5, :, :, 0])
    said = capsys.readouterr().out
    assert f"energy {float(exact.energy.double().mean()):.4g} ± " in said
    assert "F_mem 0.0 %" in said
    assert "--index 0" in said
    record = yaml.safe_load((out / "sample.yaml").read_text())
    assert record["settings"]["weights"] == "ema"
    assert record["settings"]["samplers"]["samples"] == Sampler(steps=4, kts=kts).to_dict()
    assert (record["seeds"], record["batch_size"]) == ("0-6", 3)


def test_interrupted_and_continued_gives_the_same_bytes(at, monkeypatch, capsys):
    at("classes")
    options = ["--num", "7", "--batch-size", "3", *QUICK]
    sample([*options, "--out", "whole"])
    calls = []

    def fail_second(path, part, write=kinetic.samples.drawing.write_part):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, part)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(kinetic.samples.drawing, "write_part", fail_second)
    with pytest.raises(SystemExit) as stop:
        main(["sample", *options, "--out", "cut"])
    signal.signal(signal.SIGINT, handler)
    assert stop.value.code == 130
    assert "goes on with" in capsys.readouterr().err
    assert not Path("cut/samples.npz").exists()
    calls.clear()
    calls.append("no more failures")
    calls.append("")
    sample([*[o for o in options if o not in ("--batch-size", "3")], "--out", "cut"])
    assert len(calls) == 2 + 2  # the first batch was kept
    for name in ("energies.csv", "samples.npz", "images/000006.png", "grid.png"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes(), name


def test_finished_folder_is_extended_and_not_drawn_again(at, monkeypatch, capsys):
    at("plain")
    sample(["--num", "4", "--batch-size", "2", "--out", "out", *QUICK])
    first = rows(Path("out"))
    drawn = []
    original = kinetic.samples.drawing.draw
    monkeypatch.setattr(kinetic.samples.drawing, "draw", lambda *a, **k: drawn.append(a[1]) or original(*a, **k))
    sample(["--num", "4", "--out", "out", "--format", "shards", *QUICK])
    assert drawn == []
    assert Path("out/shards/samples-00000.tar").exists()
    sample(["--num", "6", "--out", "out", *QUICK])
    assert drawn == [[4, 5]]
    assert rows(Path("out"))[:4] == first
    assert len(pixels(Path("out"))) == 6


def test_folder_of_other_samples_is_refused_then_overwritten(at, capsys):
    at("plain")
    sample(["--num", "2", "--out", "out", *QUICK])
    before, energies = Path("out/samples.npz").read_bytes(), Path("out/energies.csv").read_bytes()
    said = refused(capsys, "--num", "2", "--out", "out", "--kts", "landing", *QUICK)
    assert "beta 0.0, now 0.02" in said
    assert Path("out/samples.npz").read_bytes() == before
    sample(["--num", "2", "--out", "out", "--kts", "landing", "--overwrite", *QUICK])
    assert Path("out/energies.csv").read_bytes() != energies


def test_sample_that_is_not_finite_is_named_and_harms_no_other(at, monkeypatch, capsys):
    at("plain")
    sample(["--num", "6", "--out", "good", *QUICK])

    def noise(seeds, shape, original=kinetic.flow.sampling.seeded_noise):
        x = original(seeds, shape)
        x[[i for i, seed in enumerate(seeds) if seed == 3]] = torch.nan
        return x

    monkeypatch.setattr(kinetic.flow.sampling, "seeded_noise", noise)
    sample(["--num", "6", "--out", "bad", *QUICK])
    said = capsys.readouterr()
    assert "1 of 6 samples did not stay finite: seeds 3" in said.err
    assert "nan" not in said.out
    good, bad = rows(Path("good")), rows(Path("bad"))
    assert bad[3]["energy"] == "nan"
    assert bad[:3] + bad[4:] == good[:3] + good[4:]
    assert (pixels(Path("bad"))[3] == 128).all()
    assert np.array_equal(np.delete(pixels(Path("bad")), 3, 0), np.delete(pixels(Path("good")), 3, 0))


def test_following_the_training_set_copies_it(at, capsys):
    run = at("plain")
    (run / "checkpoints/last.ckpt").unlink()  # no network is needed
    sample(["--empirical", "--num", "40", *CPU])
    said = capsys.readouterr().out
    share = float(said.split("F_mem ")[1].split(" %")[0])
    assert share >= 97
    assert "empirical flow matching" in said
    assert (run / "sampling/empirical-off/samples.npz").exists()


def test_classes_of_the_training_set(at):
    at("classes")
    sample(["--empirical", "--labels", "0,1", "--num", "4", "--out", "out", *CPU])
    assert [r["label"] for r in rows(Path("out"))] == ["0", "1", "0", "1"]


def test_comparison_holds_its_controls(at, capsys):
    run = at("plain")
    sample(["--compare", "balanced,landing", "--num", "12", "--batch-size", "5", *QUICK])
    out = run / "sampling/compare"
    with open(out / "compare.csv", newline="") as file:
        table = {row["setting"]: row for row in csv.DictReader(file)}
    stops = ["off to t = 0.98", "off to t = 0.97"]
    noises = ["off, noise as balanced", "off, noise as landing"]
    divided = [f"{stop}, divided by t" for stop in stops]
    assert list(table) == ["off", "balanced", "landing", *stops, *divided, *noises]
    assert float(table[divided[1]]["energy"] or "nan") != float(table["off"]["energy"])  # nothing was measured of it
    net = load_network(run / "checkpoints/last.ckpt").net
    found = {
        name: draw(net, range(12), shape=(1, 8, 8), sampler=Sampler(steps=4, kts=KTS.preset(name)))
        for name in ("off", "landing")
    }
    moved = (found["landing"].x - found["off"].x).flatten(1).norm(dim=1).mean()
    assert float(table["landing"]["residual"]) == pytest.approx(float(moved), rel=1e-3)
    assert float(table["landing"]["energy"]) == pytest.approx(float(found["landing"].energy.mean()), rel=1e-4)
    assert table[noises[1]]["residual"] == table["landing"]["residual"]
    assert float(table["off"]["residual"]) == 0
    assert all(row["f_mem"] != "" and float(row["high"]) > 0 for row in table.values())
    assert {r["setting"] for r in rows(out)} == {"off", "balanced", "landing", *stops}
    assert (out / "compare.png").exists()
    assert (out / "report.html").exists()
    assert "moved from off" in capsys.readouterr().out


def test_samples_without_the_training_set_say_so(at, capsys):
    """Kills: F_mem that is left out without a word."""
    run = at("plain")
    shutil.copy(run / "checkpoints/last.ckpt", "lone.ckpt")
    sample(["--checkpoint", "lone.ckpt", "--num", "3", "--out", "out", *QUICK])
    assert "F_mem is left out: without a run there is no training set" in capsys.readouterr().err


def test_gains_and_noise_of_ones_own_have_folders_of_their_own(at):
    """Kills: one folder for the unshaped flow and for what is typed over it, which then refuses the second."""
    run = at("plain")
    for options, name in (
        ([], "off"),
        (["--beta", "0.01"], "own"),
        (["--kts", "landing", "--tau", "0.5"], "landing-own"),
        (["--noise", "linear:0.5"], "off-noise"),
    ):
        sample(["--num", "2", *options, *QUICK])
        assert (run / "sampling" / name / "sample.yaml").is_file(), name


def test_comparison_without_the_training_set(at, capsys):
    run = at("plain")
    shutil.copy(run / "checkpoints/last.ckpt", "lone.ckpt")
    sample(["--checkpoint", "lone.ckpt", "--compare", "off,launch", "--num", "3", "--out", "out", *QUICK])
    said = capsys.readouterr()
    assert "F_mem is left out" in said.err
    assert [line.split(",")[0] for line in Path("out/compare.csv").read_text().split("\n")[1:-1]] == ["off", "launch"]


def test_data_that_changed_is_no_reference(at, capsys):
    run = at("plain")
    (run / "subset.txt").write_text("digits/0000\n")
    sample(["--compare", "off,launch", "--num", "3", *QUICK])
    assert "no longer the one" in capsys.readouterr().err


def test_one_sample_again(at, capsys):
    run = at("classes")
    options = ["--kts", "balanced", "--average-gain", "--labels", "3,7", *QUICK]
    sample([*options, "--num", "6"])
    record = yaml.safe_load((run / "sampling/balanced/sample.yaml").read_text())
    assert record["settings"]["samplers"]["samples"]["average_gain"] is True
    capsys.readouterr()
    sample([*options, "--index", "5"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line)
    out = run / "sampling/balanced"
    assert lines["class"] == "7"
    assert float(lines["energy"]) == pytest.approx(float(rows(out)[5]["energy"]), rel=1e-4)
    again = np.asarray(Image.open(out / "sample-5.png")).astype(int)
    assert abs(again - pixels(out)[5, :, :, 0]).max() <= 1
    assert (out / "energy-5.png").exists()


def test_points_in_the_plane(at, capsys):
    run = at("points")
    sample(["--num", "20", *QUICK])
    out = run / "sampling/off"
    assert pixels(out).shape == (20, 2)
    assert pixels(out).dtype == np.float32
    assert (out / "grid.png").exists()
    assert not (out / "images").exists()
    sample(["--index", "3", *QUICK])
    sample(["--compare", "off,landing", "--num", "5", *QUICK])
    assert "no pictures" in refused(capsys, "--format", "png", "--num", "20", *QUICK)


def test_raw_weights_and_labels(at):
    run = at("classes")
    sample(["--weights", "raw", "--labels", "balanced", "--num", "12", "--out", "raw", *QUICK])
    assert [r["label"] for r in rows(Path("raw"))] == [*map(str, range(10)), "0", "1"]
    net = load_network(run / "checkpoints/last.ckpt", weights="raw").net
    found = draw(net, [2], shape=(1, 8, 8), labels=2, sampler=Sampler(steps=4))
    assert float(rows(Path("raw"))[2]["energy"]) == pytest.approx(float(found.energy), rel=1e-4)


def test_options_reach_the_network(at, monkeypatch):
    at("classes")
    calls = []
    original = kinetic.samples.drawing.draw
    monkeypatch.setattr(kinetic.samples.drawing, "draw", lambda *a, **k: calls.append(k) or original(*a, **k))
    sample(["--guidance", "3", "--labels", "4", "--precision", "bf16", "--num", "2", *QUICK])
    assert len(calls) == 1
    assert calls[0]["labels"].tolist() == [4, 4]
    assert calls[0]["sampler"] == Sampler(steps=4, guidance=3.0)
    assert calls[0]["precision"] == "bf16"


class Own(UNet):
    """A network of the user's own."""


def test_own_network_needs_to_be_trusted(at, capsys):
    run = at("plain")
    state = read_checkpoint(run / "checkpoints/last.ckpt")
    state["hyper_parameters"]["network"]["class_path"] = f"{__name__}.Own"
    write_checkpoint(state, run / "checkpoints/last.ckpt")
    assert "--trust tests" in refused(capsys, "--num", "2", *QUICK)
    sample(["--num", "2", "--trust", "tests", "--out", "out", *QUICK])
    assert len(rows(Path("out"))) == 2


FAULTS = [
    (["--method", "eular"], "euler, midpoint"),
    (["--method", "rk4", "--average-gain"], "--average-gain is for the methods euler, midpoint, heun2"),
    (["--kts", "blanced"], "off, balanced, launch, landing"),
    (["--compare", "off,blanced"], "off, balanced, launch, landing"),
    (["--labels", "3"], "unconditional"),
    (["--labels", "three"], "cannot read labels"),
    (["--guidance", "2"], "guidance"),
    (["--steps", "0"], "--steps must be a whole number of 1 to 100,000, got 0"),
    (["--steps", "many"], "--steps"),
    (["--tau", "1"], "strictly between 0 and 1, got 1.0"),
    (["--beta", "0.06"], "largest beta allowed"),
    (["--grid", "0,1,x"], "cannot read the grid"),
    (["--grid", "log"], "uniform, cosine"),
    (["--launch-form", "cubic"], "linear, constant, exponential"),
    (["--seeds", "9-3"], "must rise"),
    (["--num", "0"], "--num must be 1 to 10,000,000, got 0"),
    (["--batch-size", "0"], "at least 1"),
    (["--precision", "8"], "32, bf16, 16"),
    (["--format", "jpg"], "png, npz, shards"),
    (["--devices", "none"], "here, or auto"),
    (["--accelerator", "abacus"], "abacus"),
    (["--weights", "best"], "ema, raw"),
    (["--num", "3", "--seeds", "0-2"], "do not go together"),
    (["--compare", "off", "--kts", "off"], "do not go together"),
    (["--index", "-1"], "a seed of 0 to"),
    (["--nmu", "3"], "--nmu"),
    (["nosuch"], "known runs: run"),
    (["--checkpoint", "nosuch.ckpt"], "does not exist"),
]


@pytest.mark.parametrize(("options", "words"), FAULTS, ids=[" ".join(o) for o, _ in FAULTS])
def test_fault_is_one_line_and_writes_nothing(at, capsys, options, words):
    run = at("plain")
    assert words in refused(capsys, *options, *([] if "--accelerator" in options else CPU))
    assert not (run / "sampling").exists()


def test_label_outside_the_range(at, capsys):
    at("classes")
    assert "0 to 9" in refused(capsys, "--labels", "10", *QUICK)


def test_no_run_yet(workdir, capsys):
    assert "train one first" in refused(capsys, *CPU)


class Malice:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


def test_checkpoints_that_cannot_be_used(at, capsys):
    run = at("plain")
    last = run / "checkpoints/last.ckpt"
    state = read_checkpoint(last)
    state["hyper_parameters"]["network"]["init_args"]["model_channels"] = 16
    write_checkpoint(state, "other.ckpt")
    assert "another architecture" in refused(capsys, "--checkpoint", "other.ckpt", *CPU)
    Path("cut.ckpt").write_bytes(last.read_bytes()[:1000])
    assert "damaged" in refused(capsys, "--checkpoint", "cut.ckpt", *CPU)
    torch.save({"state_dict": Malice()}, "evil.ckpt", pickle_module=pickle)
    assert "more than weights" in refused(capsys, "--checkpoint", "evil.ckpt", *CPU)
    assert not Path("harmed").exists()


def test_adaptive_solver_that_gives_up_is_one_line(at, capsys):
    at("plain")
    with pytest.raises(SystemExit):
        main(["sample", "--method", "dopri5", "--rtol", "1e-30", "--atol", "1e-30", "--num", "2", *CPU])
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: seeds 0 to 1: dopri5 stopped")
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_processes_write_what_one_does(at):
    at("plain")
    sample(["--num", "7", "--batch-size", "2", "--out", "one", *QUICK])
    command = [sys.executable, "-m", "kinetic", "sample", "--num", "7", "--batch-size", "2", "--out", "two", *QUICK]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--devices", "2"], env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "7 samples from" in done.stdout
    one, two = rows(Path("one")), rows(Path("two"))
    assert [r["seed"] for r in two] == [r["seed"] for r in one]
    for a, b in zip(one, two, strict=True):
        assert float(b["energy"]) == pytest.approx(float(a["energy"]), rel=1e-5)
    assert abs(pixels(Path("one")).astype(int) - pixels(Path("two"))).max() <= 1
    assert {p.name for p in Path("one").iterdir()} == {p.name for p in Path("two").iterdir()}
    assert Path("one/.parts/samples/000003.npz").read_bytes() == Path("two/.parts/samples/000003.npz").read_bytes()


def test_a_solver_that_gives_up_is_one_line_in_a_close_up_and_in_a_sampling(at, capsys, monkeypatch):
    run = at("plain")
    state = read_checkpoint(run / "checkpoints/last.ckpt")
    for name, value in state["state_dict"].items():
        if value.is_floating_point():
            state["state_dict"][name] = torch.full_like(value, torch.nan)
    write_checkpoint(state, run / "checkpoints/last.ckpt")
    for options in (["--index", "3"], ["--num", "2"]):
        with pytest.raises(SystemExit) as stop:
            main(["sample", "--method", "dopri5", *options, *CPU])
        assert stop.value.code == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]  # behind the progress bar
        assert said.startswith("error: ")
        assert "dopri5 stopped near t = 0" in said
        assert "use a fixed method" in said
