"""What a resumed run uses: every changed setting holds and is said, or is refused before anything is written."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from kinetic.cli import main
from kinetic.cli.train import train
from kinetic.models.checkpoint import read_checkpoint, write_checkpoint
from tests.conftest import TINY, merged
from tests.test_cli_train import refused


def rates(run: Path) -> list[float]:
    state = read_checkpoint(run / "checkpoints/last.ckpt")
    return [group["lr"] for group in state["optimizer_states"][0]["param_groups"]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 3 steps of a constant learning rate, to be copied."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    changes = {"scheduler": None, "model": {"warmup_steps": 0}, "trainer": {"max_steps": 3}, "run": {"name": "run"}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(merged(TINY, changes)))
    os.chdir(folder)
    try:
        train(["--config", "tiny.yaml"])
    finally:
        os.chdir(before)
    return folder / "runs/run"


@pytest.fixture
def run(trained, workdir):
    return Path(shutil.copytree(trained, workdir / "runs/run"))


def files(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_a_new_learning_rate_holds_and_is_said(run, capsys):
    train(["--resume", "run", "--trainer.max_steps", "5", "--optimizer.init_args.lr", "1e-5"])
    assert rates(run) == [1e-5]
    assert "changed: optimizer.init_args.lr is 1e-05 from now on (it was 0.001)" in capsys.readouterr().err
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["init_args"]["lr"] == 1e-5
    assert read_checkpoint(run / "checkpoints/last.ckpt")["optimizer_states"][0]["state"][0]["step"] == 5


def test_other_options_of_the_optimiser_hold_too(run):
    train(["--resume", "run", "--trainer.max_steps", "4", "--optimizer.init_args.weight_decay", "0.5"])
    group = read_checkpoint(run / "checkpoints/last.ckpt")["optimizer_states"][0]["param_groups"][0]
    assert (group["weight_decay"], group["lr"]) == (0.5, 1e-3)


def test_a_new_schedule_goes_on_as_if_it_had_held_from_the_start(run):
    options = ["--scheduler.class_path", "torch.optim.lr_scheduler.StepLR", "--scheduler.init_args.step_size", "2"]
    train(["--resume", "run", "--trainer.max_steps", "5", *options])
    assert rates(run) == pytest.approx([1e-5])  # tenfold less at steps 2 and 4


def test_a_schedule_of_fixed_length_can_be_prolonged(tiny, workdir):
    one = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.01, "total_steps": 4}}
    config = tiny(scheduler=one, model={"warmup_steps": 0}, trainer={"max_steps": 4}, run={"name": "one"})
    train(["--config", str(config)])
    train(["--resume", "one", "--trainer.max_steps", "8", "--scheduler.init_args.total_steps", "9"])
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    expected = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=9)
    for _ in range(8):
        optimizer.step()
        expected.step()
    assert rates(workdir / "runs/one") == pytest.approx(expected.get_last_lr())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optimizer.class_path", "torch.optim.SGD"], "--resume keeps optimizer.class_path"),
        (["--seed_everything", "9"], "--resume keeps seed_everything, which is 3 in the run, not 9"),
        (["--network.init_args.model_channels", "16"], "--resume keeps network.init_args.model_channels"),
        (["--data.init_args.batch_size", "4"], "--resume keeps data.init_args.batch_size"),
        (["--data.class_path", "kinetic.data.Toy"], "--resume keeps data.class_path"),
        (["--model.path", "vp"], "--resume keeps model.path"),
        (["--run.name", "other"], "--run.name does not go with --resume"),
        (["--scheduler.class_path", "torch.optim.lr_scheduler.ReduceLROnPlateau"], "ReduceLROnPlateau waits"),
        (["--optimizer.init_args.lr", "-1"], "nvalid learning rate"),
        (["--model.ema_decay", "null"], "another architecture"),
        (["--config", "other.yaml"], "--resume keeps"),
    ],
)
def test_what_would_make_it_another_run_is_refused_and_nothing_is_written(run, capsys, options, words):
    changes = {"data": {"init_args": {"num_train": 10}}, "run": {"name": "run"}}
    Path("other.yaml").write_text(yaml.safe_dump(merged(TINY, changes)))
    before = files(run)
    assert words in refused(capsys, "--resume", "run", "--trainer.max_steps", "5", *options)
    assert files(run) == before
    train(["--resume", "run", "--trainer.max_steps", "4"])
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 4


def spoiled(state: dict, key: str) -> dict:
    """A checkpoint with one thing wrong."""
    fit = state["loops"]["fit_loop"]
    first = state["optimizer_states"][0]
    {
        "no optimiser": lambda: state.pop("optimizer_states"),
        "an empty optimiser": lambda: first["state"].clear(),
        "an optimiser of other shapes": lambda: first["state"][0].update(exp_avg=torch.zeros(3)),
        "an optimiser without moments": lambda: first["state"][0].pop("exp_avg"),
        "no loops": lambda: state.pop("loops"),
        "loops at step 0": lambda: fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"][
            "total"
        ].update(completed=0),
        "negative progress": lambda: fit["epoch_progress"]["total"].update(ready=-1),
        "text for progress": lambda: fit.update({"epoch_loop.batch_progress": "x"}),
        "an infinite rate": lambda: first["param_groups"][0].update(lr=float("inf")),
        "a rate of text": lambda: first["param_groups"][0].update(lr="fast"),
        "parameters as text": lambda: first["param_groups"][0].update(params=["a"]),
        "a callback of another kind": lambda: state["callbacks"].update(Checkpoints={"best": "x"}),
        "no version": lambda: state.pop("pytorch-lightning_version"),
        "no step": lambda: state.update(global_step=None),
        "a step that is true": lambda: state.update(global_step=True),
        "another format": lambda: state["kinetic"].update(format=99),
        "weights that are numbers": lambda: state["state_dict"].update({next(iter(state["state_dict"])): 1}),
        "a stretched tensor": lambda: state["state_dict"].update(
            {next(iter(state["state_dict"])): torch.zeros(1).expand(10**9)}
        ),
    }[key]()
    return state


KINDS = (
    "no optimiser, an empty optimiser, an optimiser of other shapes, an optimiser without moments, no loops, "
    "loops at step 0, negative progress, text for progress, an infinite rate, a rate of text, parameters as text, "
    "a callback of another kind, no version, no step, a step that is true, another format, weights that are numbers, "
    "a stretched tensor"
)


@pytest.mark.parametrize("kind", KINDS.split(", "))
def test_a_checkpoint_that_lacks_something_is_refused_and_nothing_is_written(run, capsys, kind):
    last = run / "checkpoints/last.ckpt"
    write_checkpoint(spoiled(read_checkpoint(last), kind), last)
    before = files(run)
    line = refused(capsys, "--resume", "run", "--trainer.max_steps", "5")
    assert line.startswith("error: ")
    assert "unexpected" not in line
    assert files(run) == before


def test_one_flipped_byte_of_a_weight_is_noticed(run, capsys):
    last = run / "checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    value = next(iter(read_checkpoint(last)["state_dict"].values())).numpy().tobytes()
    content[content.index(value[:64]) + 5] ^= 1
    last.write_bytes(content)
    assert "not those that were written" in refused(capsys, "--resume", "run", "--trainer.max_steps", "5")
    with pytest.raises(SystemExit):
        main(["sample", "run", "--num", "2"])
    assert "not those that were written" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_starts_from_the_beginning(run, capsys):
    shutil.rmtree(run / "checkpoints")
    train(["--resume", "run"])
    assert "has no checkpoint yet; it starts from the beginning" in capsys.readouterr().err
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 3
    assert len((run / "metrics.csv").read_text().splitlines()) == 4


def test_copies_that_a_killed_run_did_not_make_are_made(run):
    last = run / "checkpoints/last.ckpt"
    state = read_checkpoint(last)
    checkpoints = next(value for key, value in state["callbacks"].items() if "best" in value)
    checkpoints.update(best=0.5, best_step=3)
    write_checkpoint(state, last)
    expected = last.read_bytes()
    train(["--resume", "run", "--trainer.max_steps", "4", "--run.keep_every", "3"])
    assert (run / "checkpoints/best.ckpt").read_bytes() == expected
    assert (run / "checkpoints/step=3.ckpt").read_bytes() == expected


@pytest.mark.parametrize("end", [{"max_epochs": 2, "max_steps": -1}, {"max_epochs": 1, "max_steps": -1}])
def test_a_finished_run_has_its_model_without_validations_too(tiny, workdir, end):
    config = tiny(trainer={**end, "limit_val_batches": 0}, run={"checkpoint_every": 1000, "name": "plain"})
    train(["--config", str(config)])
    state = read_checkpoint(workdir / "runs/plain/checkpoints/last.ckpt")
    assert state["global_step"] == 4 * end["max_epochs"]
    train(["--resume", "plain", "--trainer.max_epochs", "3"])
    whole = tiny(trainer={"max_epochs": 3, "max_steps": -1, "limit_val_batches": 0}, run={"name": "whole"})
    train(["--config", str(whole)])
    ends = [read_checkpoint(workdir / f"runs/{name}/checkpoints/last.ckpt") for name in ("plain", "whole")]
    assert all(torch.equal(value, ends[1]["state_dict"][name]) for name, value in ends[0]["state_dict"].items())


def test_a_run_killed_behind_its_last_step_is_made_good_though_training_does_not_start_again(workdir, capsys):
    """Fails without `on_fit_end` of Checkpoints and of OwnFolder: Lightning skips `on_train_start` there."""
    changes = {"run": {"name": "run", "keep_every": 3}, "trainer": {"max_steps": 3, "val_check_interval": 3}}
    Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, changes)))
    train(["--config", "tiny.yaml"])
    run = Path("runs/run")
    whole = files(run)
    assert {"checkpoints/best.ckpt", "checkpoints/step=3.ckpt"} <= set(whole)
    for name in ("best.ckpt", "step=3.ckpt"):
        (run / "checkpoints" / name).unlink()
        (run / "checkpoints" / f".{name}.4711.tmp").write_bytes(b"half")
    (run / ".report.html.4711.tmp").write_bytes(b"half")
    train(["--resume", "run"])
    assert set(files(run)) == set(whole)
    for name in ("best.ckpt", "step=3.ckpt"):
        assert (run / "checkpoints" / name).read_bytes() == (run / "checkpoints/last.ckpt").read_bytes()
