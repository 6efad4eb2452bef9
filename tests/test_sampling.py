"""Drawing by seed, and the settings of a sampler."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from kinetic.flow.integration import integrate
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.seeds import seed_range
from kinetic.flow.shaping import KTS
from kinetic.memorization.detectors import renoise
from kinetic.tensors import seeded_noise


class Net(nn.Module):
    """A small conditional network for [B, 2, 4, 4] with dropout, which only an evaluation mode silences."""

    num_classes: int | None

    def __init__(self, num_classes: int | None = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.table = nn.Embedding(4, 2)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(2).eval()
        self.seen: list[tuple[torch.dtype, torch.dtype, bool]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.conv(x)
        self.seen.append((x.dtype, h.dtype, torch.is_grad_enabled()))
        if labels is not None:
            h = h + self.table(labels)[:, :, None, None]
        return self.dropout(h) + t[:, None, None, None]


SHAPE = (2, 4, 4)


def _noise_bytes(seeds: list[int]) -> bytes:
    return seeded_noise(seeds, SHAPE).numpy().tobytes()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_sample_is_a_function_of_its_seed(size: int) -> None:
    net, seeds, labels = Net(), list(range(8)), torch.arange(8) % 3
    sampler = Sampler(steps=6, guidance=1.5, kts=KTS.preset("balanced"))
    whole = draw(net, seeds, shape=SHAPE, labels=labels, sampler=sampler)
    parts = [
        draw(net, seeds[i : i + size], shape=SHAPE, labels=labels[i : i + size], sampler=sampler)
        for i in range(0, 8, size)
    ]
    torch.testing.assert_close(torch.cat([part.x for part in parts]), whole.x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([part.energy for part in parts]), whole.energy, rtol=1e-5, atol=1e-5)
    backwards = draw(net, seeds[::-1], shape=SHAPE, labels=labels.flip(0), sampler=sampler)
    torch.testing.assert_close(backwards.x.flip(0), whole.x, rtol=1e-5, atol=1e-5)


def test_noise_is_bit_equal_for_any_batch_and_any_process() -> None:
    seeds = list(range(100, 108))
    alone = b"".join(_noise_bytes([seed]) for seed in seeds)
    torch.manual_seed(77)
    torch.rand(3)
    assert _noise_bytes(seeds) == alone
    code = (
        f"from kinetic.tensors import seeded_noise; print(seeded_noise({seeds[1::2]}, {SHAPE}).numpy().tobytes().hex())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    shares = [_noise_bytes(seeds[0::2]), bytes.fromhex(elsewhere.stdout.strip())]
    row = len(alone) // 8
    assert b"".join(shares[i % 2][i // 2 * row : (i // 2 + 1) * row] for i in range(8)) == alone


def test_draw_leaves_the_random_state_and_every_mode_as_they_were() -> None:
    net, state = Net().train(), torch.get_rng_state()
    net.frozen.eval()
    first = draw(net, [1, 2], shape=SHAPE, sampler=Sampler(steps=3))
    assert torch.equal(torch.get_rng_state(), state)  # so dropout was off
    assert net.training
    assert net.dropout.training
    assert not net.frozen.training
    assert not any(grad for _, _, grad in net.seen)
    assert torch.equal(first.x, draw(net, [1, 2], shape=SHAPE, sampler=Sampler(steps=3)).x)
    with pytest.raises(ValueError, match="shape of x"):
        draw(Doubled(net), [1], shape=SHAPE)
    assert net.training


class Doubled(nn.Module):
    """A network with twice as many channels as it should have."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        v = self.net(x, t, labels)
        return torch.cat([v, v], 1)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize(
    ("precision", "inside"), [("32", torch.float32), ("32-true", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_holds_for_the_network_alone(precision: str, inside: torch.dtype, outside: bool) -> None:
    net = Net()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside):
        result = draw(net, [0, 1], shape=SHAPE, sampler=Sampler(steps=2), precision=precision)
    assert {(x, h) for x, h, _ in net.seen} == {(torch.float32, inside)}
    assert result.x.dtype == result.energy.dtype == result.power.dtype == torch.float32


def test_double_precision_starts_from_the_same_noise() -> None:
    single = draw(Net(), [0, 1], shape=SHAPE, sampler=Sampler(steps=5))
    double = draw(Net().double(), [0, 1], shape=SHAPE, sampler=Sampler(steps=5), precision="64-true")
    assert double.x.dtype == double.energy.dtype == torch.float64
    torch.testing.assert_close(double.x.float(), single.x, rtol=1e-4, atol=1e-4)


def test_labels_one_for_all_or_one_for_each() -> None:
    net, sampler = Net(), Sampler(steps=2)
    one = draw(net, [0, 1], shape=SHAPE, labels=2, sampler=sampler)
    each = draw(net, [0, 1], shape=SHAPE, labels=[2, 2], sampler=sampler)
    other = draw(net, [0, 1], shape=SHAPE, labels=[1, 2], sampler=sampler)
    assert torch.equal(one.x, each.x)
    assert torch.equal(other.x[1], each.x[1])
    assert not torch.equal(other.x[0], each.x[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (5, "label 5 is outside the classes 0 to 2"),
        ([0, -1], "label -1 is outside"),
        ([0, 1, 2], "one for each of 2 seeds, got 3"),
    ],
)
def test_bad_labels_are_named(labels: int | list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(Net(), [0, 1], shape=SHAPE, labels=labels)


def test_labels_and_guidance_need_a_conditional_network() -> None:
    with pytest.raises(ValueError, match="the network is unconditional"):
        draw(Net(None), [0], shape=SHAPE, labels=[1])
    with pytest.raises(ValueError, match="needs a class-conditional network"):
        draw(Net(None), [0], shape=SHAPE, sampler=Sampler(guidance=2.0))
    with pytest.raises(ValueError, match="unknown precision 'fp8'; choose from 32"):
        draw(Net(), [0], shape=SHAPE, precision="fp8")


def test_a_sampler_survives_plain_types() -> None:
    for sampler in (
        Sampler(),
        Sampler("dopri5", rtol=1e-7, kts=KTS.preset("landing", tau=0.4)),
        Sampler(grid=[0.0, 0.5, 1.0], guidance=4.0),  # type: ignore[arg-type]
    ):
        values = sampler.to_dict()
        assert Sampler.from_dict(values) == sampler
        assert {type(value) for value in values.values()} <= {str, int, float, dict, list}
    assert Sampler(grid=[0.0, 0.5, 1.0]).steps == 2  # type: ignore[arg-type]
    assert Sampler.from_dict({"kts": "balanced"}).kts == KTS.preset("balanced")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "ddim"}, "unknown method 'ddim'"),
        ({"steps": 0}, "steps must be"),
        ({"grid": "log"}, "unknown grid"),
        ({"rtol": 0.0}, "rtol must be above 0"),
        ({"guidance": float("inf")}, "guidance must be a finite"),
        ({"step": 5}, "unknown sampler option 'step'; choose from method, steps"),
        ({"kts": "soft"}, "unknown KTS preset 'soft'"),
        ({"kts": {"alpha": 0.01, "gama": 1}}, "unknown KTS option 'gama'"),
        ({"noise": {"form": "linear", "power": 1}}, "unknown noise option 'power'"),
    ],
)
def test_bad_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler.from_dict(wrong)


def test_renoise_measures_where_the_way_back_leads() -> None:
    points = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])

    class Towards:
        """The exact field of one point for each sample: whatever the noise, the way leads back to it."""

        num_classes = None

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return (points - x) / (1 - t[:, None])

    assert renoise(Towards(), points, [0, 1]).max() < 1e-5
    moved = renoise(Towards(), points + torch.tensor([[0.3, 0.4], [0.0, 0.0]]), [0, 1])
    torch.testing.assert_close(moved, torch.tensor([0.5, 0.0]), rtol=1e-4, atol=1e-4)


def test_renoise_uses_fresh_noise_that_depends_on_the_seed_alone() -> None:
    class Still:
        """A field that does not move, so that the distance is that of the noise."""

        num_classes = None
        starts: list[Tensor] = []  # noqa: RUF012

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            self.starts.append(x)
            return torch.zeros_like(x)

    net, x = Still(), seeded_noise([0, 1, 2], (8,))
    sampler = Sampler(steps=10, kts=KTS.preset("balanced"))
    distance = renoise(net, x, [0, 1, 2], sampler=sampler, repeats=2)
    assert len(net.starts) == 2 * 3
    first, second = (net.starts[i] / 0.3 - x * 0.7 / 0.3 for i in (0, 3))
    torch.testing.assert_close(distance, 0.3 * ((x - first).norm(dim=1) + (x - second).norm(dim=1)) / 2)
    assert (first - second).abs().min() > 1e-3
    assert (first - x).norm(dim=1).min() > 1  # not the noise that the samples start from
    torch.testing.assert_close(renoise(net, x[1:2], [1], sampler=sampler), distance[1:2])
    for wrong in ({"repeats": 0}, {"t": 1.0}):
        with pytest.raises(ValueError, match="must"):
            renoise(net, x, [0, 1, 2], **wrong)  # type: ignore[arg-type]


def test_a_draw_is_an_integration_from_the_noise_of_its_seeds() -> None:
    net = Net().eval()
    drawn = draw(net, torch.tensor([4, 9]), shape=SHAPE, sampler=Sampler(method="rk4", steps=4, grid="cosine"))
    by_hand = integrate(lambda x, t: net(x, t), seeded_noise([4, 9], SHAPE), method="rk4", steps=4, grid="cosine")
    assert torch.equal(drawn.x, by_hand.x)
    assert drawn.nfe == 16


def test_seed_ranges() -> None:
    assert seed_range("0-3") == [0, 1, 2, 3]
    assert seed_range("1, 5,9-10") == [1, 5, 9, 10]
    assert len(seed_range("0-49999")) == 50_000
    for wrong in ("", "a", "3-1", "1,1", "5,2", "-3", "1-", "1.5"):
        with pytest.raises(ValueError, match="seeds"):
            seed_range(wrong)
