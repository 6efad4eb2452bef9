"""Two CPU processes, started as a user would start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBED = {"max_steps": 8, "callbacks": [{"class_path": "tests.probe.Probe"}]}
ROOT = Path(__file__).parent.parent


def run(config: Path, *options: str, timeout: int = 150) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env.pop("KINETIC_RUN", None)
    command = [sys.executable, "-m", "kinetic", "train", "--config", str(config), "--trust", "tests", *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


def two(config: Path, name: str) -> list[dict]:
    done = run(config, "--run.name", name, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"probe-{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_share_weights_but_neither_noise_nor_data(tiny, workdir):
    config = tiny(trainer=PROBED, run={"wandb": "offline"})
    a, b = two(config, "two")
    assert a["weights"] == b["weights"]
    assert all(x != y for x, y in zip(a["times"], b["times"], strict=True))
    assert all(x != y for x, y in zip(a["noise"], b["noise"], strict=True))
    for x, y in zip(a["ids"], b["ids"], strict=True):
        assert len(x) == len(y) == 4  # half of the global batch of 8
    first_two_steps = [*a["ids"][0], *b["ids"][0], *a["ids"][1], *b["ids"][1]]
    assert len(set(first_two_steps)) == 16  # of 20 images, none is repeated
    assert {s for s, _ in a["seeds"]} | {s for s, _ in b["seeds"]} == set(range(6))
    assert sorted(p.name for p in (workdir / "runs").iterdir()) == ["latest", "two"]
    again = two(config, "again")
    assert [r["weights"] for r in again] == [a["weights"]] * 2
    assert [r["times"] for r in again] == [a["times"], b["times"]]


NETWORKS = {
    "dit with classes": {
        "class_path": "kinetic.nn.DiT",
        "init_args": {
            "input_size": 8,
            "patch_size": 4,
            "in_channels": 1,
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "num_classes": 10,
        },
    },
    "unet with classes": {
        "class_path": "kinetic.nn.UNet",
        "init_args": {
            "image_size": 8,
            "in_channels": 1,
            "model_channels": 8,
            "num_res_blocks": 1,
            "channel_mult": [1],
            "attention_resolutions": [],
            "num_head_channels": 8,
            "num_classes": 10,
        },
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_on_two_ranks(tiny, workdir, name):
    a, b = two(tiny(network=NETWORKS[name], trainer={**PROBED, "max_steps": 2}), "net")
    assert a["weights"] == b["weights"]


def test_fewer_held_out_images_than_ranks_do_not_hang(tiny, workdir):
    two(tiny(data={"init_args": {"num_val": 1}}, trainer={**PROBED, "max_steps": 5}), "few")
    assert "val/loss" in Path("runs/few/metrics.csv").read_text().splitlines()[0]


def test_global_batch_that_does_not_divide_is_refused_in_one_line(tiny, workdir):
    config = tiny(data={"init_args": {"batch_size": 9}})
    done = run(config, "--trainer.devices", "2", "--trainer.strategy", "ddp", timeout=90)
    assert done.returncode != 0
    assert "batch_size=9 does not divide" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("accumulate", "reductions"), [(1, 3), (2, 3)])
def test_gradients_are_reduced_once_an_optimiser_step(tiny, workdir, accumulate, reductions):
    """Kills: a reduction at every accumulated batch; the tiny network is one bucket."""
    reducing = {"class_path": "tests.probe.Reductions"}
    trainer = {"max_steps": 3, "accumulate_grad_batches": accumulate, "callbacks": [reducing]}
    done = run(tiny(trainer=trainer), "--trainer.devices", "2", "--trainer.strategy", "ddp", "--run.name", "sync")
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads(Path(f"reductions-{rank}.json").read_text()) for rank in range(2)]
    assert seen == [{"reductions": reductions, "backwards": 3 * accumulate}] * 2
