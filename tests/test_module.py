"""FlowMatching without the command line."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

import kinetic.training.module as module_file
from kinetic.cli.train import train
from kinetic.data import Digits, Toy
from kinetic.flow.motion import IntegrationError
from kinetic.flow.seeds import ValidationSampling
from kinetic.nn import MLP, UNet
from kinetic.training.module import FlowMatching
from kinetic.training.optimizers import make_optimizer

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
NONE = ValidationSampling(num=0)


def fit(module, data, steps, *callbacks, **options):
    settings = {
        "accelerator": "cpu",
        "max_steps": steps,
        "max_epochs": -1,
        "num_sanity_val_steps": 0,
        **QUIET,
        **options,
    }
    trainer = Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, datamodule=data)
    return trainer


def toy(**settings):
    torch.manual_seed(0)
    module = FlowMatching(MLP(width=16), **{"samples": NONE, "ema_decay": 0.9, **settings})
    return module, Toy(points=200, batch_size=20, num_val=30)


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_learning_rate_warms_up_then_follows_the_schedule():
    module, data = toy(
        optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}},
        scheduler={"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3, "gamma": 0.1}},
        warmup_steps=4,
    )
    rates = Rates()
    fit(module, data, 11, rates)
    expected = [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 0.1, 0.1, 0.1, 0.01]
    assert rates.seen == pytest.approx(expected)


def test_validation_loss_of_the_same_weights_is_the_same_number():
    module, data = toy(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}})
    losses = []

    class Note(Callback):
        def on_validation_end(self, trainer, module):
            losses.append(float(trainer.callback_metrics["val/loss"]))

    fit(module, data, 20, Note(), check_val_every_n_epoch=1)
    assert len(losses) == 2
    assert losses[0] == losses[1]


def test_validation_uses_the_averaged_weights():
    module, data = toy(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}, ema_decay=0.9)
    trainer = fit(module, data, 30)
    before = trainer.validate(module, datamodule=data, verbose=False)[0]["val/loss"]
    nn.init.constant_(module.net.out.weight if hasattr(module.net, "out") else next(module.net.parameters()), 100.0)
    assert trainer.validate(module, datamodule=data, verbose=False)[0]["val/loss"] == before


def test_gradient_accumulation_keeps_the_global_batch():
    seen = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append((trainer.global_step, len(batch["ids"])))

    module, data = toy()
    fit(module, data, 3, Note(), accumulate_grad_batches=2)
    assert seen == [(0, 10), (1, 10), (1, 10), (2, 10), (2, 10), (3, 10)]
    assert int(module.ema.updates) == 3


def test_state_holds_the_network_and_its_average_and_nothing_else():
    module, _ = toy()
    names = set(MLP(width=16).state_dict())
    expected = {f"net.{n}" for n in names} | {f"ema.network.{n}" for n in names} | {"ema.updates"}
    assert set(module.state_dict()) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"coupling": "ot"},
        {"path": "gvp"},
        {"path": "vp"},
        {"times": "logit_normal", "time_mean": -0.5},
        {"ema_decay": None},
    ],
)
def test_every_objective_learns_something(settings):
    module, data = toy(optimizer={"class_path": "torch.optim.Adam", "init_args": {"lr": 3e-3}}, **settings)
    start = fit(module, data, 1).validate(module, datamodule=data, verbose=False)[0]["val/loss"]
    end = fit(module, data, 300).validate(module, datamodule=data, verbose=False)[0]["val/loss"]
    assert end < start


@pytest.mark.parametrize("options", [{"compile": True}, {"channels_last": True}])
def test_compiled_and_channels_last_networks_keep_their_names(options, monkeypatch):
    compile_ = nn.Module.compile  # without the minute that the inductor takes
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend="eager"))
    net = UNet(
        image_size=8,
        in_channels=1,
        model_channels=8,
        num_res_blocks=1,
        channel_mult=(1,),
        attention_resolutions=(),
        num_head_channels=8,
        num_classes=10,
    )
    names = set(net.state_dict())
    module = FlowMatching(net, label_dropout=0.5, samples=NONE, **options)
    fit(module, Digits(batch_size=8, num_train=16, num_val=4), 2)
    assert {n.removeprefix("net.") for n in module.state_dict() if n.startswith("net.")} == names


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_dropout": 0.1}, "unconditional"),
        ({"label_dropout": 1.5}, r"\[0, 1\]"),
        ({"path": "straight"}, "linear"),
        ({"times": "often"}, "uniform"),
        ({"time_std": 2.0}, "logit_normal"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, words):
    with pytest.raises(ValueError, match=words):
        toy(**settings)


def test_plain_loaders_do_without_a_datamodule():
    module, _ = toy()
    batches = [{"x": torch.randn(10, 2), "labels": None} for _ in range(4)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
    trainer = Trainer(accelerator="cpu", max_steps=4, **QUIET)
    trainer.fit(module, train_dataloaders=loader, val_dataloaders=loader)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


@pytest.mark.filterwarnings("ignore")
def test_a_draw_that_fails_in_validation_is_one_line_and_training_goes_on(tiny, capsys, monkeypatch):
    calls, original = [], module_file.draw

    def fails_at_first(*args, **options):
        calls.append(args[1])
        if len(calls) == 1:
            raise IntegrationError("dopri5 stopped near t = 0.5 (underflow in dt): use a fixed method")
        return original(*args, **options)

    monkeypatch.setattr(module_file, "draw", fails_at_first)
    watching = {"trainer": {"max_steps": 5, "callbacks": [{"class_path": "kinetic.callbacks.KPECallback"}]}}
    train(["--config", str(tiny(**watching)), "--run.name", "run"])
    said = capsys.readouterr().err
    assert "kinetic energies: seeds 0 to 3 were not drawn: dopri5 stopped near t = 0.5" in said
    assert said.count("were not drawn") == 1
    assert pq.read_table("runs/run/kpe.parquet").column("seed").to_pylist() == [4, 5]
    assert Path("runs/run/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(("arguments", "fused"), [({}, True), ({"foreach": True}, None), ({"fused": False}, False)])
def test_an_optimiser_steps_in_one_kernel_unless_told_how(arguments: dict[str, Any], fused: bool | None) -> None:
    weight = nn.Parameter(torch.ones(3))
    made, _ = make_optimizer([weight], {"class_path": "torch.optim.AdamW", "init_args": arguments})
    assert made.param_groups[0]["fused"] is fused
    plain, _ = make_optimizer([weight], {"class_path": "torch.optim.Rprop", "init_args": {}})
    assert "fused" not in plain.param_groups[0]
