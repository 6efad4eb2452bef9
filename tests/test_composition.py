"""Fields made of others: closed forms, which networks are evaluated, and that nothing waits for a device."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kinetic.errors import KineticError
from kinetic.flow.composition import Composed, Pieces, away_from, hand_over
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.paths import path
from kinetic.flow.sampling import Sampler, draw, velocity_of
from kinetic.flow.shaping import KTS
from kinetic.flow.solvers import FIXED
from kinetic.tensors import seeded_noise

SHAPE = (3,)
SEEDS = range(5)
X0 = seeded_noise(SEEDS, SHAPE)


class Constant(nn.Module):
    """The same velocity everywhere, or that of the label; counts its calls and remembers the times."""

    def __init__(self, *value: float, classes: int | None = None) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.num_classes, self.times = classes, []

    def forward(self, x, t, labels=None):
        self.times.append(t if isinstance(t, FakeTensor) else t.tolist())
        v = self.value.expand_as(x)
        return v if labels is None else v * (1 + labels[:, None])


class Linear(nn.Module):
    """v = a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, x, t, labels=None):
        return self.a * x


def field(net, **more) -> Field:
    return Field(net, shape=SHAPE, **more)


def power(*v: float) -> float:
    return sum(value**2 for value in v) / 2


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3", "dopri5", "bosh3"])
def test_a_hand_over_of_constant_fields_in_closed_form(method: str) -> None:
    late, before = Constant(1.0, 2.0, 0.0), Constant(0.0, -1.0, 3.0)
    drawn = draw(hand_over(field(late), field(before), at=0.7), SEEDS, sampler=Sampler(method=method, steps=10))
    torch.testing.assert_close(drawn.x, X0 + 0.7 * late.value + 0.3 * before.value, rtol=1e-5, atol=1e-5)
    expected = {"energy_late": 0.7 * power(1, 2, 0), "energy_before": 0.3 * power(0, -1, 3)}
    for name, value in expected.items():
        torch.testing.assert_close(drawn.columns[name], torch.full((5,), value), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(drawn.field_energy, drawn.energy_late + drawn.energy_before)
    assert drawn.nfe == len(late.times) + len(before.times)
    assert max(max(t) for t in late.times) < 0.7 + 1e-6
    assert min(min(t) for t in before.times) >= 0.7 - 1e-6


def test_inside_a_step_the_field_at_each_evaluated_time_decides() -> None:
    late, before = Constant(1.0, 0.0, 0.0), Constant(0.0, 1.0, 0.0)
    sampler = Sampler(method="midpoint", steps=2)  # evaluates t = 0, 0.25, 0.5, 0.75
    drawn = draw(hand_over(field(late), field(before), at=0.6), SEEDS, sampler=sampler)
    assert [t[0] for t in late.times] == [0, 0.25, 0.5]
    assert [t[0] for t in before.times] == [0.75]
    torch.testing.assert_close(drawn.x, X0 + torch.tensor([0.5, 0.5, 0.0]))
    drawn = draw(hand_over(field(late), field(before), at=0.5), SEEDS, sampler=Sampler(method="heun2", steps=2))
    torch.testing.assert_close(drawn.x, X0 + torch.tensor([0.25, 0.75, 0.0]))  # the last stage of a step is at its end


def test_a_rounded_grid_meets_the_time_of_a_hand_over() -> None:
    late, before = Constant(1.0, 0.0, 0.0), Constant(0.0, 1.0, 0.0)
    grid = (0.0, 0.7 - 1e-13, 1.0)
    draw(hand_over(field(late), field(before), at=0.7), SEEDS, sampler=Sampler(grid=grid))
    assert len(late.times) == len(before.times) == 1


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_away_from_linear_fields_is_a_linear_field(method: str) -> None:
    a, b, w = 0.4, -0.3, 0.5
    net = away_from(field(Linear(a)), field(Linear(b)), weight=w, between=(0.25, 0.75))
    sampler = Sampler(method=method, steps=8, rtol=1e-8, atol=1e-8)
    drawn = draw(net, SEEDS, sampler=sampler)
    rate = a + w * (a - b)
    if method == "euler":
        factor = (1 + a / 8) ** 4 * (1 + rate / 8) ** 4
    else:
        factor = torch.tensor(0.5 * a + 0.5 * rate).exp().item()
    torch.testing.assert_close(drawn.x, factor * X0, rtol=1e-4, atol=1e-5)
    if method == "rk4":
        evaluations = 4 * 8 + 4 * 4  # the last stage before 0.25 is inside, that before 0.75 is not
        assert drawn.nfe == evaluations
        assert bool((drawn.energy_late < drawn.energy_before).all())
        mid = torch.tensor(0.25 * a).exp() ** 2
        inside = (torch.tensor(rate).exp() - 1) / (2 * rate)  # ∫ e^{2 rate s} ds over half
        expected = 0.5 * b**2 * X0.square().sum(1) * mid * inside
        torch.testing.assert_close(drawn.energy_late, expected, rtol=5e-2, atol=1e-5)


def test_without_weight_it_is_the_base_bit_for_bit_and_the_other_is_not_evaluated() -> None:
    other = Constant(1.0, 1.0, 1.0)
    base = EmpiricalVelocity(seeded_noise(range(50, 60), SHAPE))
    sampler = Sampler(method="heun2", steps=7, kts=KTS.preset("balanced"))
    plain = draw(field(base), SEEDS, sampler=sampler)
    drawn = draw(away_from(field(base), field(other), weight=0.0), SEEDS, sampler=sampler)
    assert torch.equal(plain.x, drawn.x)
    assert torch.equal(plain.energy, drawn.energy)
    assert other.times == []
    assert drawn.energy_late.tolist() == [0] * 5


def test_the_closed_form_field_costs_no_network() -> None:
    base, images = Constant(0.1, 0.2, 0.3), EmpiricalVelocity(seeded_noise(range(50, 60), SHAPE))
    net = away_from(field(base), field(images), name="training", weight=0.3, between=(0.1, 0.8))
    drawn = draw(net, SEEDS, sampler=Sampler(steps=10))
    assert drawn.nfe == len(base.times) == 10
    torch.testing.assert_close(drawn.energy_before, torch.full((5,), power(0.1, 0.2, 0.3)))
    assert bool((drawn.energy_training > 0).all())


def test_labels_guidance_precision_and_shaping_reach_every_part() -> None:
    """Constant fields v (1 + label): guidance 2 from the null label 3 gives v (1 + 2 (l - 3) + 3)."""
    late, before = Constant(1.0, 0.0, 0.0, classes=3), Constant(0.0, 1.0, 0.0, classes=3)
    parts = (field(late, num_classes=3), field(before, num_classes=3))
    kts = KTS(0.5, 0.0, tau=0.5, launch="constant")
    sampler = Sampler(steps=10, guidance=2.0, kts=kts)
    drawn = draw(hand_over(*parts, at=0.7), SEEDS, labels=[0, 1, 2, 0, 1], sampler=sampler, precision="bf16")
    scale = 4 + 2.0 * (torch.tensor([0, 1, 2, 0, 1]) - 3)
    way = torch.stack([(0.5 * 1.5 + 0.2) * scale, 0.3 * scale, 0 * scale], 1)
    torch.testing.assert_close(drawn.x, X0 + way, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(drawn.energy_late, 0.7 * scale**2 / 2)
    torch.testing.assert_close(drawn.energy, (0.5 * 2.25 + 0.5) * scale**2 / 2)
    assert drawn.nfe == 10


def test_as_a_network_each_row_has_its_own_time() -> None:
    late, before = Constant(1.0, 0.0, 0.0), Constant(0.0, 1.0, 0.0)
    net = hand_over(field(late), field(before), at=0.5)
    t = torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0])
    expected = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert torch.equal(net(X0, t), expected)
    assert torch.equal(velocity_of(net, X0)(X0, t), expected)
    assert isinstance(net.net, Composed)
    assert len(list(net.net.parameters())) == 2


@pytest.mark.parametrize("method", FIXED)
def test_choosing_does_not_wait_for_a_device(method: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            late, before = Constant(1.0, 2.0, 0.0), Constant(0.0, -1.0, 3.0)
        for net in (hand_over(field(late), field(before)), away_from(field(late), field(before), between=(0.1, 0.8))):
            drawn = draw(net, SEEDS, device="cuda", sampler=Sampler(method=method, steps=5))
            assert drawn.x.device.type == drawn.energy_before.device.type == drawn.energy_late.device.type == "cuda"
            assert net(drawn.x, torch.empty(5, device="cuda")).device.type == "cuda"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a: hand_over(a, a, at=1.0), "strictly between 0 and 1, got 1.0"),
        (lambda a: away_from(a, a, weight=-1.0), "at least 0, got -1.0"),
        (lambda a: away_from(a, a, weight=float("nan")), "finite"),
        (lambda a: away_from(a, a, between=(0.5, 0.5)), "rise in"),
        (lambda a: hand_over(a, Field(Linear(1), shape=(4,))), "another shape"),
        (lambda a: hand_over(a, field(Linear(1), num_classes=3)), "another number of classes"),
        (lambda a: hand_over(a, field(Linear(1), path=path("gvp"))), "another path"),
        (lambda a: Pieces((0.5, 0.1), ({}, {})), "rise from 0"),
    ],
)
def test_what_cannot_be_combined_is_one_line(make, words: str) -> None:
    with pytest.raises(KineticError, match=words):
        make(field(Linear(1.0)))
