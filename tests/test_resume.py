"""A run that is killed anywhere and resumed ends as one that never stopped, bit for bit."""

import csv
import os
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from kinetic.cli.train import train
from kinetic.models.checkpoint import read_checkpoint
from tests.conftest import TINY, merged

KILLABLE = {"trainer": {"callbacks": [{"class_path": "tests.test_resume.Killer"}]}}


class Killed(Exception):
    pass


class Killer(Callback):
    """Dies at a step: after its batch, or in the middle of the validation that follows it."""

    where: tuple[str, int] = ("none", -1)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if Killer.where == ("step", trainer.global_step):
            raise Killed

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if Killer.where == ("validation", trainer.global_step):
            raise Killed


def finish(config: Path, name: str, **where: int) -> Path:
    """Run to the end, killed on the way where told to; without KINETIC_RUN, as a new process would be."""
    killers = [("step", where.get("step", -1)), ("validation", where.get("validation", -1))]
    Killer.where = next((k for k in killers if k[1] >= 0), ("none", -1))
    start = ["--config", str(config), "--run.name", name, "--trust", "tests"]
    if Killer.where[0] == "none":
        train(start)
    else:
        with pytest.raises(Killed):
            train(start)
        Killer.where = ("none", -1)
        train(["--resume", name, "--trust", "tests"])
    return Path("runs") / name


def assert_same_state(a: object, b: object, at: str = "") -> None:
    if isinstance(a, dict):
        assert set(a) == set(b), at
        for key in a:
            assert_same_state(a[key], b[key], f"{at}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{at}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), at
    else:
        assert a == b, at


@pytest.fixture
def config(tiny):
    return tiny(**KILLABLE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run that never stopped, for all tests here."""
    folder = tmp_path_factory.mktemp("whole")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, KILLABLE)))
        return folder / finish(Path("tiny.yaml"), "whole")
    finally:
        os.chdir(before)


# Checkpoints are written every 3 steps and after the validations at 5 and 10; epochs end after 4, 8 and 12.
@pytest.mark.parametrize("where", [{"step": 4}, {"step": 5}, {"step": 8}, {"step": 11}, {"validation": 5}])
def test_resumed_run_ends_bit_equal(whole, config, where):
    part = finish(config, "part", **where)
    ends = [read_checkpoint(run / "checkpoints/last.ckpt") for run in (whole, part)]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same_state(ends[0][key], ends[1][key], key)
    assert (whole / "metrics.csv").read_text() == (part / "metrics.csv").read_text()


@pytest.mark.parametrize("step", [5, 8])
def test_resumed_run_whose_loaders_are_made_anew_each_epoch_ends_bit_equal(tiny, step):
    """In the middle of an epoch and at its end: the loader that is made anew must go on where the old one was."""
    config = tiny(trainer={**KILLABLE["trainer"], "reload_dataloaders_every_n_epochs": 1})
    ends = [
        read_checkpoint(finish(config, name, **where) / "checkpoints/last.ckpt")
        for name, where in {"anew": {}, "part": {"step": step}}.items()
    ]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same_state(ends[0][key], ends[1][key], key)


def test_metrics_csv_has_every_step_once_and_the_validations(whole):
    with open(whole / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(12))
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [5, 10]
