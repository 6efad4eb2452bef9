"""Classes are called by their names: in checkpoints, on the screen, and where labels are asked for."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinetic.cli.classes import labels_named, listed_classes
from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.errors import KineticError
from kinetic.models.checkpoint import read_checkpoint, write_checkpoint

TWELVE = sorted(map(str, range(12)))  # as folders are: 0, 1, 10, 11, 2, ...


@pytest.mark.parametrize(
    ("text", "names", "labels"),
    [
        ("3", None, [3]),
        ("0,3, 7", None, [0, 3, 7]),
        ("-1", None, [-1]),  # refused where the range is known
        ("dog", ["cat", "dog"], [1]),
        ("dog,cat,dog", ["cat", "dog"], [1, 0, 1]),
        ("1", ["cat", "dog"], [1]),
        ("2", TWELVE, [4]),
        ("#2", TWELVE, [2]),
        ("2,#2", TWELVE, [4, 2]),
        ("cat, big", ["cat", "cat, big"], [1]),
    ],
)
def test_labels_are_read_by_name_first(text, names, labels):
    assert labels_named(text, names) == labels


def test_an_unknown_name_is_told_with_those_that_there_are():
    with pytest.raises(KineticError, match=r"bird.*0 = cat, 1 = dog"):
        labels_named("cat,bird", ["cat", "dog"])
    assert listed_classes(["a"] * 20, most=2) == "0 = a, 1 = a, ... 20 in all"


def trained(tiny, workdir: Path) -> Path:
    for number, name in enumerate(TWELVE):
        (workdir / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 20 * number, dtype=np.uint8)).save(workdir / "photos" / name / "x.png")
    data = {
        "class_path": "kinetic.data.Folder",
        "init_args": {"path": "photos", "batch_size": 4, "num_val": 2, "grayscale": True},
    }
    config = tiny(
        network={"init_args": {"num_classes": 12}},
        data=data,
        trainer={"max_steps": 2, "limit_val_batches": 0},
        model={"sampler": {"guidance": 2.0}},
    )
    train(["--config", str(config), "--run.name", "run"])
    return workdir / "runs/run"


def labels_of(folder: Path) -> list[int]:
    with open(folder / "energies.csv", newline="") as file:
        return [int(row["label"]) for row in csv.DictReader(file)]


def test_a_run_keeps_the_names_prints_them_and_draws_by_them(tiny, workdir, capsys):
    run = trained(tiny, workdir)
    assert "warning: guidance steers away" in capsys.readouterr().err
    last = run / "checkpoints/last.ckpt"
    assert read_checkpoint(last)["kinetic"]["class_names"] == TWELVE
    quick = ["--accelerator", "cpu", "--steps", "2", "--num", "2"]
    sample(["--labels", "10,2", "--out", "named", *quick])
    shown = capsys.readouterr()
    assert labels_of(Path("named")) == [2, 4]
    assert "classes: 2 = 10, 4 = 2" in shown.out
    assert "warning" not in shown.err
    sample(["--guidance", "2", "--out", "guided", *quick])
    shown = capsys.readouterr()
    assert "classes: 0 = 0, 1 = 1, 2 = 10, 3 = 11, 4 = 2" in shown.out
    assert "warning: guidance steers away" in shown.err
    state = read_checkpoint(last)
    state["kinetic"]["class_names"][0] = "two\nlines"
    write_checkpoint(state, last)
    with pytest.raises(KineticError, match="class_names"):
        sample(["--out", "damaged", *quick])
