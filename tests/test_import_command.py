"""The command `import` as its user meets it: a run that everything else understands, or one line."""

import csv
import io
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kinetic.cli import importing, main
from kinetic.cli.importing import import_file
from kinetic.cli.sample import sample
from kinetic.cli.study import study
from kinetic.cli.train import train
from kinetic.errors import KineticError
from kinetic.memorization.training_set import open_training_set
from kinetic.models.checkpoint import load_network
from kinetic.models.opening import open_run
from kinetic.report import write_report
from tests.public import parity, published

QUICK = ["--accelerator", "cpu", "--steps", "2", "--num", "4"]
SIZES = ["--size", "8", "--head-channels", "32"]


@pytest.fixture
def here(workdir: Path) -> Path:
    """A folder with torchcfm's file and SiT's."""
    for name in ("torchcfm", "sit"):
        torch.save(published(name), f"{name}.pt")
    return workdir


def photos(folder: Path, count: int = 12) -> None:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def latents(folder: Path, classes: int = 2) -> None:
    """Shards with latents of 4 x 8 x 8, of so many classes."""
    folder.mkdir()
    with tarfile.open(folder / "train-00000.tar", "w") as tar:
        for i in range(24):
            npy = io.BytesIO()
            np.save(npy, np.random.default_rng(i).standard_normal((4, 8, 8)).astype(np.float32))
            for name, content in (
                (f"{i:04d}.npy", npy.getvalue()),
                (f"{i:04d}.cls", str(i % max(classes, 1)).encode()),
            ):
                if classes or name.endswith("npy"):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def settings(run: str) -> dict:
    return yaml.safe_load(Path(f"runs/{run}/config.yaml").read_text())


def test_a_public_file_becomes_a_run_that_is_sampled_shaped_and_compared(here, capsys):
    photos(here / "photos")
    import_file(["torchcfm.pt", "--name", "theirs", "--data", "photos", *SIZES])
    said = capsys.readouterr().out
    assert (
        "Imported torchcfm.pt (torchcfm): UNet of 1.459 M parameters, averaged weights, samples of 3 x 8 x 8." in said
    )
    assert "12 training images of photos and their mirror images (--no-flip), none held out" in said
    assert said.endswith("sample theirs --kts balanced\n")
    assert settings("theirs")["imported"].items() >= {"kind": "torchcfm", "file": "torchcfm.pt"}.items()
    assert str(here) not in Path("runs/theirs/config.yaml").read_text()
    assert (here / "runs/latest").resolve() == here / "runs/theirs"
    assert not (here / "runs/theirs/.lock").exists()

    sample(["theirs", "--kts", "balanced", *QUICK])  # as it said
    out = capsys.readouterr().out
    assert "4 samples from runs/theirs (imported from torchcfm, averaged weights)" in out
    assert "F_mem" in out
    with open("runs/theirs/sampling/balanced/energies.csv", newline="") as file:
        assert [float(row["energy"]) > 0 for row in csv.DictReader(file)] == [True] * 4
    sample(["--compare", "off,balanced", "--no-controls", "--features", "none", *QUICK])
    assert "F_mem" in capsys.readouterr().out
    found = open_training_set(here / "runs/theirs")
    assert (len(found.names), found.index.flip, found.null) == (12, True, None)
    assert "Imported from torchcfm.pt, a checkpoint of torchcfm." in write_report(here / "runs/theirs").read_text()


def test_latents_and_classes_are_written_down_for_what_comes_after(here, capsys):
    torch.save({"mean": torch.arange(4.0), "std": torch.ones(4)}, "stats.pt")
    import_file(["sit.pt", "--heads", "3", "--vae", "sd-vae", "--latent-stats", "stats.pt", "--name", "a"])
    latents = {"vae": "sd-vae", "scale": 0.18215, "mean": [0.0, 1.0, 2.0, 3.0], "std": [1.0] * 4}
    assert settings("a")["latents"] == latents
    assert "subset" not in " ".join(path.name for path in Path("runs/a").iterdir())
    said = capsys.readouterr().out
    assert "guidance acts on the first 3 channels" in said
    assert "DiT's networks of diffusion" not in said  # its settings say that it is none
    import_file(["torchcfm.pt", "--name", "b", "--vae", "x", *SIZES])
    assert open_run("b").field.space == "latents"  # though three channels look like pixels
    import_file(["sit.pt", "--heads", "3"])
    assert "latents" not in settings("latest")
    sample(["--labels", "3", "--guidance", "4", *QUICK])
    assert "energy" in capsys.readouterr().out


def test_names_of_classes_are_those_of_the_data(here):
    weights = {**parity("torchcfm")[0], "label_emb.weight": torch.randn(10, 128)}
    weights["input_blocks.0.0.weight"] = weights["input_blocks.0.0.weight"][:, :1]
    weights["out.2.weight"], weights["out.2.bias"] = weights["out.2.weight"][:1], weights["out.2.bias"][:1]
    torch.save({"ema_model": weights}, "digits.pt")
    import_file(["digits.pt", "--name", "run", "--data", "{class_path: kinetic.data.Digits}", *SIZES])
    assert load_network("runs/run/checkpoints/last.ckpt").class_names == tuple("0123456789")
    with pytest.raises(KineticError, match="guidance 2 needs a label that means none"):
        sample(["run", "--guidance", "2", *QUICK])


@pytest.mark.parametrize(
    "source", ["recipe.yaml", "{class_path: kinetic.data.Folder, init_args: {path: photos, size: 8}}"]
)
def test_data_is_named_by_a_recipe_or_a_class_as_well(here, source):
    photos(here / "photos")
    data = {"class_path": "kinetic.data.Folder", "init_args": {"path": "photos", "size": 8}}
    Path("recipe.yaml").write_text(yaml.safe_dump({"seed_everything": 1, "data": data}))
    import_file(["torchcfm.pt", "--name", "run", "--data", source, *SIZES])
    assert settings("run")["data"] == data


@pytest.mark.parametrize("file", ["torchcfm.pt", "sit.pt"])
def test_sample_says_which_command_makes_a_run_of_a_public_file(here, file, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sample.py"])
    with pytest.raises(
        KineticError, match=f"is a public one, of .*: make a run of it with uv run kinetic import {file}$"
    ):
        sample(["--checkpoint", file, *QUICK])


FAULTS = {
    "a run of that name": (
        ["torchcfm.pt", "--name", "taken", *SIZES],
        "runs/taken exists already; choose another --name",
    ),
    "no name of a run": (["torchcfm.pt", "--name", "../x", *SIZES], "--name '../x' cannot name a run"),
    "no folder of runs": (["torchcfm.pt", "--root", "sit.pt", *SIZES], "--root 'sit.pt' is no folder"),
    "no file": (["other.pt"], "checkpoint other.pt does not exist"),
    "no checkpoint": (["note.txt"], "note.txt cannot be read, it is damaged or no checkpoint"),
    "our own": (["runs/taken/checkpoints/last.ckpt"], "was written by train.py: sample from it as it is"),
    "data of another shape": (
        ["sit.pt", "--heads", "3", "--data", "digits"],
        r"shape \(1, 8, 8\), but the network mak",
    ),
    "other classes": (
        ["sit.pt", "--heads", "3", "--data", "latents"],
        "--data has 2 classes, but the network knows 10",
    ),
    "no data": (["torchcfm.pt", "--data", "cifar11", *SIZES], "cifar11 is no data set"),
    "data that is not there": (["torchcfm.pt", "--data", "cifar10", *SIZES], "pass --data-root FOLDER"),
    "a recipe without data": (["torchcfm.pt", "--data", "empty.yaml", *SIZES], "needs a section data"),
    "statistics without vae": (["sit.pt", "--heads", "3", "--latent-stats", "x"], "are; pass it as well"),
    "no scale": (["sit.pt", "--heads", "3", "--vae", "x", "--vae-scale", "0"], "--vae-scale must be a number above 0"),
    "an unknown option": (["sit.pt", "--hed", "3"], "unknown option --hed"),
}


def test_faults_are_one_line_and_leave_nothing(here, capsys):
    import_file(["torchcfm.pt", "--name", "taken", *SIZES])
    Path("note.txt").write_text("no checkpoint")
    latents(Path("latents"))
    Path("empty.yaml").write_text("seed_everything: 1\n")
    for args, message in FAULTS.values():
        with pytest.raises(KineticError, match=message) as refused:
            import_file(args)
        assert "\n" not in str(refused.value)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", "taken"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["import", "other.pt"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: checkpoint other.pt does not exist\n"


def test_a_disk_that_fills_up_leaves_no_run(here, monkeypatch):
    def full(*args):
        raise OSError(28, "no space left")

    monkeypatch.setattr(importing, "write_checkpoint", full)
    with pytest.raises(OSError, match="no space left"):
        import_file(["torchcfm.pt", "--name", "run", *SIZES])
    assert not Path("runs").exists()


def test_what_an_imported_run_cannot_do_is_said(here):
    import_file(["torchcfm.pt", "--name", "run", *SIZES])
    with pytest.raises(KineticError, match="run run was imported, so training cannot go on from it"):
        train(["--resume", "run"])
    with pytest.raises(KineticError, match="names no training set; name it when the run is imported, with --data"):
        sample(["run", "--empirical", *QUICK])
    torch.save({"ema_model": parity("torchcfm")[0]}, "averaged.pt")
    import_file(["averaged.pt", "--name", "averaged", *SIZES])
    with pytest.raises(KineticError, match="holds averaged weights alone; use --weights ema"):
        sample(["averaged", "--weights", "raw", *QUICK])


def test_latents_with_classes_are_balanced_and_those_without_are_not(here, capsys):
    latents(Path("labelled"), 10)
    latents(Path("plain"), 0)
    for name in ("labelled", "plain"):
        shutil.copy(f"{name}/train-00000.tar", f"{name}/test-00000.tar")
        import_file(["sit.pt", "--heads", "3", "--data", name, "--name", name])
    assert "24 training images of labelled, 24 others held out" in capsys.readouterr().out
    study(["balance", "labelled", "--steps", "2", "--num", "20", "--accelerator", "cpu"])
    assert "excess" in capsys.readouterr().out
    with pytest.raises(KineticError, match="knows 10 classes, by which images are asked: these have none"):
        study(["balance", "plain", "--steps", "2", "--num", "20", "--accelerator", "cpu"])
