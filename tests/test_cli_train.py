"""The command `train` as its user meets it: what it writes, and how it says no."""

import csv
import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from kinetic.cli import main
from kinetic.cli.train import train
from kinetic.models.checkpoint import load_network, read_checkpoint, write_checkpoint
from kinetic.trust import Trust


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail, and return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["train", *args])
    assert exit_.value.code not in (0, None)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in "".join(lines)
    return lines[-1]


def test_run_folder_holds_everything_and_its_config_repeats_the_run(tiny, workdir):
    train(["--config", str(tiny()), "--run.name", "first"])
    run = workdir / "runs/first"
    assert (workdir / "runs/latest").resolve() == run
    assert len((run / "subset.txt").read_text().split()) == 20
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["path"] == "linear"  # resolved: defaults are in it
    train(["--config", str(run / "config.yaml"), "--run.name", "second"])
    a, b = (read_checkpoint(workdir / f"runs/{name}/checkpoints/last.ckpt") for name in ("first", "second"))
    assert all(torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in a["state_dict"])
    with open(run / "metrics.csv", newline="") as file:
        assert {"train/loss", "train/grad_norm", "train/lr", "val/loss"} <= set(next(csv.DictReader(file)))


def test_checkpoint_is_plain_and_rebuilds_both_sets_of_weights(tiny, workdir):
    train(["--config", str(tiny()), "--run.name", "run"])
    path = workdir / "runs/run/checkpoints/last.ckpt"
    state = torch.load(path, weights_only=True)
    assert all(name.startswith(("net.", "ema.")) for name in state["state_dict"])
    averaged, raw = load_network(path), load_network(path, weights="raw")
    assert (averaged.weights, raw.weights, averaged.sample_shape, averaged.step) == ("ema", "raw", (1, 8, 8), 12)
    name, value = next(iter(averaged.net.state_dict().items()))
    assert torch.equal(value, state["state_dict"][f"ema.network.{name}"])
    assert not torch.equal(value, raw.net.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--modle.x", "1"], "--modle.x"),
        (["--network.init_args.model_chanels", "8"], "model_chanels"),
        (["--network.class_path", "kinetic.nn.UNett"], "UNett"),
        (["--optimizer.init_args.lrr", "1"], "lrr"),
        (["--model.path", "straight"], "takes one of linear, gvp, vp"),
        (["--data.init_args.num_train", "5000"], "1297"),
        (["--data.init_args.size", "16"], "--data.init_args.size 8"),
        (["--network.init_args.in_channels", "3"], "the channels differ"),
        (["--network.init_args.num_classes", "3"], "num_classes to 10"),
        (["--network.init_args.channel_mult", "[1,1,1,1,1]"], "8"),
        (["--data.init_args.batch_size", "9", "--trainer.accumulate_grad_batches", "2"], "batch_size=9"),
        (["--data.class_path", "kinetic.data.Folder", "--data.init_args.path", "/no/folder"], "/no/folder"),
        (["--run.name", "a/b"], "cannot name a run"),
        (["--resume", "never"], "no run 'never'"),
        pytest.param(
            ["--run.tensorboard", "true"],
            "--extra tensorboard",
            marks=pytest.mark.skipif(bool(find_spec("tensorboard")), reason="TensorBoard is installed"),
        ),
    ],
)
def test_bad_input_gets_one_line_and_leaves_no_run_behind(tiny, workdir, capsys, options, words):
    assert words in refused(capsys, "--config", str(tiny()), *options)
    assert not (workdir / "runs").exists()


def test_missing_config_and_resume_before_any_run_say_what_to_do(workdir, capsys):
    assert "nope.yaml" in refused(capsys, "--config", "nope.yaml")
    assert "train one first" in refused(capsys, "--resume")


def test_a_run_is_never_overwritten(tiny, workdir, capsys):
    train(["--config", str(tiny(trainer={"max_steps": 1})), "--run.name", "mine"])
    before = (workdir / "runs/mine/metrics.csv").read_bytes()

    assert "--resume mine" in refused(capsys, "--config", str(tiny()), "--run.name", "mine")
    assert (workdir / "runs/mine/metrics.csv").read_bytes() == before


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_malicious_damaged_and_foreign_checkpoints_are_refused_unexecuted(tiny, workdir, capsys):
    config = str(tiny(trainer={"max_steps": 3}))
    train(["--config", config, "--run.name", "run"])
    last = workdir / "runs/run/checkpoints/last.ckpt"
    good = last.read_bytes()
    last.write_bytes(pickle.dumps({"state_dict": Payload()}))
    refused(capsys, "--resume", "run")
    torch.save({"global_step": 1, "state_dict": Payload()}, last)
    assert "refused" in refused(capsys, "--resume", "run")
    assert not Path("executed").exists()
    last.write_bytes(good[: len(good) // 2])
    assert "damaged" in refused(capsys, "--resume", "run")
    last.write_bytes(good)
    state = read_checkpoint(last)
    state["state_dict"] = {k: v for k, v in state["state_dict"].items() if "input_blocks.0" not in k}
    write_checkpoint(state, last)
    assert "another architecture" in refused(capsys, "--resume", "run")


def test_non_finite_loss_stops_with_step_times_and_ids_after_saving(tiny, workdir, capsys):
    config = str(tiny(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}))
    line = refused(capsys, "--config", config, "--run.name", "run")
    assert "at step" in line
    assert "digits/" in line
    saved = read_checkpoint(workdir / "runs/run/checkpoints/nonfinite-rank0.ckpt")["nonfinite"]
    assert len(saved["times"]) == len(saved["ids"]) == 8


def test_full_disk_is_one_line_and_keeps_what_was_there(tiny, workdir, capsys, monkeypatch):
    train(["--config", str(tiny(trainer={"max_steps": 3})), "--run.name", "run"])
    last = workdir / "runs/run/checkpoints/last.ckpt"
    before = last.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    line = refused(capsys, "--resume", "run", "--trainer.max_steps", "6")
    assert "no space left" in line
    assert last.read_bytes() == before
    assert [p.name for p in last.parent.iterdir() if p.name.endswith(".tmp")] == []


def test_dry_run_tells_the_cost_and_writes_nothing(tiny, workdir, capsys):
    train(["--config", str(tiny()), "--dry-run"])
    out = capsys.readouterr().out
    for word in ("parameters", "41,609", "batch", "steps", "memory", "time"):
        assert word in out
    assert not (workdir / "runs").exists()


def test_any_module_can_be_the_network(tiny, workdir):
    config = tiny(
        network={"class_path": "tests.test_cli_train.Own", "init_args": {"width": 5}}, trainer={"max_steps": 2}
    )
    train(["--config", str(config), "--run.name", "own", "--trust", "tests"])
    path = workdir / "runs/own/checkpoints/last.ckpt"
    with pytest.raises(ValueError, match="--trust tests"):
        load_network(path)
    assert isinstance(load_network(path, trust=Trust(("tests",))).net, Own)


class Own(torch.nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(2, width, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(width, 1, 1)
        )

    def forward(self, x, t, labels=None):
        return self.layers(torch.cat([x, t.view(-1, 1, 1, 1).expand_as(x)], 1))
