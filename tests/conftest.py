"""What the tests of whole runs share: a tiny configuration, and a way to run commands in a folder of their own."""

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

os.environ["WANDB_MODE"] = "disabled"
torch.set_num_threads(1)

TINY: dict[str, Any] = {
    "seed_everything": 3,
    "run": {"checkpoint_every": 3},
    "network": {
        "class_path": "kinetic.nn.UNet",
        "init_args": {
            "image_size": 8,
            "in_channels": 1,
            "model_channels": 8,
            "num_res_blocks": 1,
            "channel_mult": [1, 2],
            "attention_resolutions": [],
            "num_head_channels": 8,
            "dropout": 0.2,
        },
    },
    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
    "scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 20}},
    "model": {
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "samples": {"num": 6, "batch_size": 4},
        "sampler": {"method": "euler", "steps": 4},
    },
    "data": {
        "class_path": "kinetic.data.Digits",
        "init_args": {"batch_size": 8, "num_train": 20, "num_val": 6, "steps_per_epoch": 4},
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 12,
        "max_epochs": -1,
        "val_check_interval": 5,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    },
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Overlay nested dictionaries; a class_path replaces the whole entry."""
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict) and "class_path" not in value
        out[key] = merged(base[key], value) if nested else value
    return out


@contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """Make a folder the current one for a while, for runs that several tests share."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        os.environ.pop("KINETIC_RUN", None)


def run_once(factory: pytest.TempPathFactory, name: str, changes: dict[str, Any]) -> Path:
    """Train the tiny configuration, with `changes`, as runs/run in a folder that several tests share; returns that."""
    from kinetic.cli.train import train

    with inside(factory.mktemp(name)) as home:
        Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, changes)))
        train(["--config", "tiny.yaml", "--run.name", "run"])
    return home


def csv_rows(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by the names of its columns."""
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def copied(home: Path, workdir: Path) -> Path:
    """Copy the runs of a shared folder into a test's own; returns that of runs/run."""
    shutil.copytree(home / "runs", workdir / "runs", symlinks=True)
    return workdir / "runs/run"


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where runs/ appears."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KINETIC_RUN", raising=False)
    yield tmp_path
    os.environ.pop("KINETIC_RUN", None)


@pytest.fixture
def tiny(workdir: Path) -> Callable[..., Path]:
    """Write the tiny configuration, changed as told, and return its path."""

    def write(name: str = "tiny", **changes: Any) -> Path:
        path = workdir / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(TINY, changes)))
        return path

    return write
