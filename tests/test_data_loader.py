"""The order of training: what a batch holds, how ranks share it, and that a stopped run continues exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from kinetic.data import Digits, Shards
from kinetic.data.pools import BatchOrder
from kinetic.data.writing import write_shards


def ids_of(loader: Any, epochs: int) -> list[list[str]]:
    return [batch["ids"] for _ in range(epochs) for batch in loader]


def test_every_pass_over_the_subset_holds_each_image_once_whatever_the_batch() -> None:
    subset = torch.arange(10, 17)
    plan = BatchOrder(subset, batch=3, per_epoch=2)
    seen = torch.cat([plan.indices(b) for b in range(14)])  # 42 images: six passes over seven
    for part in seen.split(7):
        assert sorted(part.tolist()) == subset.tolist()
    assert seen[:7].tolist() != seen[7:14].tolist()


def test_batches_larger_than_the_subset_hold_whole_passes() -> None:
    plan = BatchOrder(torch.arange(5), batch=12, per_epoch=1)
    counts = torch.bincount(torch.cat([plan.indices(b) for b in range(5)]))
    assert counts.tolist() == [12] * 5


def test_a_batch_is_a_function_of_its_number_not_of_the_way_there() -> None:
    forward, direct = (BatchOrder(torch.arange(7), batch=3, per_epoch=2, seed=3) for _ in range(2))
    walked = [forward.indices(b) for b in range(9)]
    for b in (8, 2, 5):
        assert torch.equal(direct.indices(b), walked[b])


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 3)])
def test_ranks_and_accumulation_share_the_same_global_batch(world: int, accumulate: int) -> None:
    data = Digits(batch_size=24, num_train=100, seed=1, flip=True)
    whole = list(data.train_loader())
    shares = [list(data.train_loader(rank=r, world=world, accumulate=accumulate)) for r in range(world)]
    assert {len(s) for s in shares} == {len(whole) * accumulate} == {5 * accumulate}
    for step, batch in enumerate(whole):
        micro = [shares[r][step * accumulate + a] for a in range(accumulate) for r in range(world)]
        assert [i for m in micro for i in m["ids"]] == batch["ids"]
        assert torch.equal(torch.cat([m["labels"] for m in micro]), batch["labels"])
    if accumulate == 1:
        assert torch.equal(torch.cat([shares[r][0]["x"] for r in range(world)]), whole[0]["x"])


def test_ranks_are_disjoint_within_a_pass() -> None:
    data = Digits(batch_size=16, num_train=64)
    first, second = ({i for ids in ids_of(data.train_loader(rank=r, world=2), 1) for i in ids} for r in range(2))
    assert first | second == set(data.subset_ids)
    assert not first & second


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does() -> None:
    with pytest.raises(ValueError, match=r"batch_size=100 .* 3 devices x 2 accumulated .* such as 102$"):
        Digits(batch_size=100).train_loader(world=3, accumulate=2)


@pytest.mark.parametrize("num_train", [100, 128, 129])
def test_epochs_of_subsets_smaller_equal_and_larger_than_the_batch(num_train: int) -> None:
    loader = Digits(batch_size=128, num_train=num_train).train_loader()
    assert len(loader) == len(list(loader)) == (2 if num_train == 129 else 1)
    assert all(len(ids) == 128 for ids in ids_of(loader, 2))


def test_seeds_change_the_order_and_equal_seeds_repeat_it() -> None:
    orders = [ids_of(Digits(batch_size=8, num_train=None, seed=s).train_loader(), 1) for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 6, 12])
def test_a_loader_restored_at_any_batch_goes_on_with_equal_pixels(stop: int) -> None:
    data = Digits(batch_size=20, num_train=96, flip=True)
    whole = data.train_loader()
    straight = [b for _ in range(4) for b in whole]
    resumed = data.train_loader()
    resumed.load_state_dict({"batches": stop})
    rest = [b for _ in range(4 - stop // 5) for b in resumed]
    assert [b["ids"] for b in rest] == [b["ids"] for b in straight[stop:]]
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(rest, straight[stop:], strict=True))


def test_the_state_counts_batches_delivered() -> None:
    loader = Digits(batch_size=16, num_train=64).train_loader()
    steps = iter(loader)
    assert loader.state_dict() == {"batches": 0}
    next(steps), next(steps)
    assert loader.state_dict() == {"batches": 2}


def test_flips_mirror_about_half_and_differ_from_batch_to_batch() -> None:
    plan = BatchOrder(torch.arange(4), batch=4000, per_epoch=1)
    first, second = plan.flips(0), plan.flips(1)
    assert 1800 < int(first.sum()) < 2200
    assert 1800 < int((first != second).sum()) < 2200
    plain, flipped = (next(iter(Digits(batch_size=64, flip=f).train_loader())) for f in (False, True))
    mirrored = (flipped["x"] == plain["x"].flip(-1)).flatten(1).all(1)
    straight = (flipped["x"] == plain["x"]).flatten(1).all(1)
    assert bool((mirrored | straight).all())
    assert 15 < int(mirrored.sum()) < 49


class Recorder(LightningModule):
    """A network of one weight that writes down what it was trained and validated on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[tuple[list[str], float]] = []

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        self.seen.append((batch["ids"], float(batch["x"].sum())))
        return (self.weight * batch["x"]).square().mean()

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self.log("val/loss", batch["x"].mean() * self.weight.detach().mean(), batch_size=len(batch["ids"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Kill(Callback):
    """End the process the hard way, in the middle of step `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            raise KeyboardInterrupt


def fit(folder: Path, *callbacks: Callback, data: Any = None, resume: Path | None = None, **options: Any) -> Recorder:
    """Train thirteen steps, five to an epoch."""
    net = Recorder()
    options = {"max_steps": 13, "max_epochs": -1, "accumulate_grad_batches": 1} | options
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(net, data or Digits(batch_size=20, num_train=90, num_val=40, flip=True), ckpt_path=resume)
    assert trainer.num_training_batches == min(
        5 * trainer.accumulate_grad_batches, options.get("limit_train_batches", 99)
    )
    return net


CASES = {
    "mid_epoch": ({"every_n_train_steps": 3}, {}, 3),
    "second_epoch": ({"every_n_train_steps": 7}, {}, 7),
    "last_batch_of_an_epoch": ({"every_n_train_steps": 5}, {}, 5),
    "end_of_an_epoch": ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}, 10),
    "validation_in_mid_epoch": ({"save_on_train_epoch_end": False}, {"val_check_interval": 2}, 7),
    "validation_across_epochs": (
        {"save_on_train_epoch_end": False},
        {"val_check_interval": 4, "check_val_every_n_epoch": None},
        8,
    ),
    "accumulation": ({"every_n_train_steps": 3}, {"accumulate_grad_batches": 2}, 3),
    "limited_epochs": ({"every_n_train_steps": 7}, {"limit_train_batches": 3}, 7),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_killed_fit_continues_where_it_stopped(case: str, tmp_path: Path) -> None:
    saving, options, saved = CASES[case]

    def checkpoints(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, **saving)

    straight = fit(tmp_path, checkpoints("straight"), **options)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, checkpoints("killed"), Kill(11), **options)
    state = tmp_path / "killed" / f"step={saved}.ckpt"
    resumed = fit(tmp_path, checkpoints("resumed"), resume=state, **options)
    micro = options.get("accumulate_grad_batches", 1)
    assert resumed.seen == straight.seen[saved * micro :]
    assert len(straight.seen) == 13 * micro
    assert torch.equal(resumed.weight, straight.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_killed_fit_over_streamed_shards_continues_where_it_stopped(tmp_path: Path) -> None:
    write_shards(Digits(num_train=90), tmp_path / "shards", per_shard=15)

    def run(folder: str, *callbacks: Callback, resume: Path | None = None) -> Recorder:
        data = Shards(train=str(tmp_path / "shards"), batch_size=20, cache=False, num_workers=2, flip=True)
        saving = ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, every_n_train_steps=3)
        return fit(tmp_path, saving, *callbacks, data=data, resume=resume)

    straight = run("straight")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run("killed", Kill(8))
    resumed = run("resumed", resume=tmp_path / "killed" / "step=6.ckpt")
    assert resumed.seen == straight.seen[6:]
    assert torch.equal(resumed.weight, straight.weight)
