"""Tensor helpers, files, run folders, building from configurations, averaged weights, seeds."""

import pytest
import torch
from torch import nn

from kinetic.build import build
from kinetic.flow.seeds import labels_for, seed_loader
from kinetic.store.files import replacing, sha256, write_text
from kinetic.tensors import chunks, generator, seed_from, seeded_noise, squared_norm
from kinetic.training.averaging import AveragedNetwork
from kinetic.trust import Trust

# Tensors


def test_squared_norm_sums_in_float32_where_half_precision_overflows():
    x = torch.full((2, 3, 256, 256), 1.5, dtype=torch.float16)
    assert squared_norm(x).tolist() == [2.25 * 3 * 256 * 256] * 2
    assert squared_norm(x.double()).dtype == torch.float64


def test_noise_of_a_seed_depends_on_nothing_else():
    whole = seeded_noise(range(10), (3, 4))
    assert torch.equal(whole[7:9], seeded_noise([7, 8], (3, 4)))
    assert len({float(row.flatten()[0]) for row in whole}) == 10


def test_seed_from_separates_keys_that_would_collide_when_joined():
    keys = [(1, 23), (12, 3), (123,), (0, 1, 23), (23, 1)]
    assert len({seed_from(*key) for key in keys}) == len(keys)
    assert torch.equal(torch.rand(3, generator=generator(1, 2)), torch.rand(3, generator=generator(1, 2)))


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_chunks_cover_the_range_once(size):
    assert [i for part in chunks(10, size) for i in range(10)[part]] == list(range(10))


# Files


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert sha256(path) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"


# Building


def test_build_refuses_foreign_packages_before_importing_them(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("open('executed', 'w').close()\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--trust evil"):
        build({"class_path": "evil.Net"}, base=nn.Module, home="kinetic.nn", trust=Trust())
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"class_path": "torch.nn.Linear", "init_args": {"in_feature": 1}}, "in_feature"),
        ({"class_path": "torch.nn.Parameter", "init_args": {}}, "is not a Module"),
        ({"class_path": "torch.nn.Lineer"}, "cannot be imported"),
        ({"path": "torch.nn.Linear"}, "class_path"),
    ],
)
def test_build_names_the_fault(config, words):
    with pytest.raises(ValueError, match=words):
        build(config, base=nn.Module, home="torch.nn", trust=Trust())


# Averaged weights


def test_average_follows_the_closed_form_in_float32_under_bf16():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.0)
    ema = AveragedNetwork(net, decay=0.999)
    net.to(torch.bfloat16).weight.data.fill_(1.0)
    ema.to(torch.bfloat16)
    expected = 0.0
    for n in range(1, 1001):
        ema.update(net)
        decay = min(0.999, (1 + n) / (10 + n))
        expected = decay * expected + 1 - decay
    assert ema.network.weight.dtype == torch.float32
    assert ema.network.weight.item() == pytest.approx(expected, rel=1e-5)


def test_average_is_not_trained_and_stays_in_evaluation_mode():
    ema = AveragedNetwork(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), decay=0.9).train()
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.parameters())
    with pytest.raises(ValueError, match="ema_decay"):
        AveragedNetwork(nn.Linear(1, 1), decay=1.0)


# Seeds


def test_labels_are_a_function_of_the_seed():
    seeds = torch.tensor([0, 7, 12, 7])
    assert labels_for(seeds, "balanced", 10).tolist() == [0, 7, 2, 7]
    assert labels_for(seeds, 3, 10).tolist() == [3] * 4
    assert labels_for(seeds, [4, 5], 10).tolist() == [4, 5, 4, 5]
    assert labels_for(seeds, "balanced", None) is None
    with pytest.raises(ValueError, match="0 to 9"):
        labels_for(seeds, 10, 10)
    with pytest.raises(ValueError, match="unconditional"):
        labels_for(seeds, 1, None)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_seed_loaders_give_every_rank_as_many_and_all_together_each(world):
    shares = [
        torch.cat([batch["seeds"] for batch in seed_loader(range(7), batch_size=2, rank=rank, world=world)])
        for rank in range(world)
    ]
    assert {len(share) for share in shares} == {-(-7 // world)}
    assert set(torch.cat(shares).tolist()) == set(range(7))


def test_more_ranks_than_seeds_still_pads_every_rank():
    shares = [list(seed_loader([5], rank=rank, world=4)) for rank in range(4)]
    assert [share[0]["seeds"].tolist() for share in shares] == [[5]] * 4


def test_average_that_moves_every_third_step_is_that_of_every_step_while_the_network_rests() -> None:
    net = nn.Linear(4, 4)
    often, seldom = AveragedNetwork(net, decay=0.7), AveragedNetwork(net, decay=0.7, every=3)
    for step in range(1, 13):  # the decay warms up until step 20
        if step % 3 == 1:
            nn.init.normal_(net.weight)
        often.update(net)
        before = seldom.network.weight.clone()
        seldom.update(net)
        if step % 3:
            assert torch.equal(seldom.network.weight, before)
        else:
            torch.testing.assert_close(seldom.network.weight, often.network.weight)
    assert int(seldom.updates) == 12
