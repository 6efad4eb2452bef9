"""The energy balance against exact answers: Gaussian data over t, the empirical field of its own set, classes, OT."""

import math

import numpy as np
import pytest
import torch

from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.integration import integrate
from kinetic.flow.paths import LINEAR, path
from kinetic.flow.sampling import Sampler
from kinetic.flow.shaping import KTS
from kinetic.memorization.balance import Balance, Spent, energy_balance, refusal
from kinetic.memorization.estimates import mean_of_samples, mean_over_time
from kinetic.memorization.image_terms import Images, balance_terms, image_terms, stratified_times
from kinetic.tensors import seeded_noise, squared_norm
from kinetic.training.couplings import pair

MU, S, D = 0.7, 0.5, 6


def gaussian_velocity(x, t):
    """v = μ + (σ'/σ)(x - tμ) with σ² = (1-t)² + t²s², the optimal field of N(μ, s²I)."""
    t = t.view(-1, 1)
    variance = (1 - t) ** 2 + (t * S) ** 2
    return MU + (t * S**2 - (1 - t)) / variance * (x - t * MU)


def gaussian_images(count, seed=0):
    return MU + S * torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def images(velocity, x1, *, labels=None, on=LINEAR, first=10**6, coupling="independent", batch=500):
    """Rows of a set of images, under noise of their own."""
    times, parts = stratified_times(len(x1)), []
    for start in range(0, len(x1), batch):
        index = torch.arange(start, min(start + batch, len(x1)))
        x0 = seeded_noise(index + first, x1.shape[1:])
        paired = pair(x0, {"x": x1[index]}, coupling=coupling)["x"]
        own = None if labels is None else labels[index]
        parts.append(balance_terms(velocity, x0, paired, times[index], path=on, index=index, labels=own))
    return Images.of(parts, independent=coupling == "independent")


def spent(velocity, count, shape, *, steps=200, labels=None):
    x0 = seeded_noise(range(count), shape)
    drawn = integrate(velocity, x0, steps=steps, method="midpoint")
    return Spent(
        energy=drawn.energy.double().numpy(),
        start=(squared_norm(x0) - x0[0].numel()).double().numpy(),
        times=drawn.times.numpy(),
        power=drawn.power.numpy(),
        labels=np.full(count, -1) if labels is None else labels.numpy(),
    )


def test_gaussian_field_balances_over_time_and_at_every_time():
    """Closed forms: L*(t) = d s²/((1-t)² + t²s²), L* = d π s/2, A = ½(‖μ‖² + d s² + d)."""
    found = energy_balance(
        spent(gaussian_velocity, 4000, (D,)), images(gaussian_velocity, gaussian_images(20_000)), bins=10
    )
    conditional = (D * MU**2 + D * S**2 + D) / 2
    exact = conditional - D * math.pi * S / 4
    assert found.conditional == pytest.approx(conditional, rel=0.01)
    assert found.held_out == pytest.approx(exact, rel=0.01)
    assert found.power == pytest.approx(exact, rel=0.01)
    assert found.excess_low < 0 < found.excess_high
    t = found.profile["t"]
    over_time = conditional - D * S**2 / 2 / ((1 - t) ** 2 + (t * S) ** 2)
    np.testing.assert_allclose(found.profile["held_out"], over_time, rtol=0.05)
    np.testing.assert_allclose(found.profile["power"], over_time, rtol=0.05)
    np.testing.assert_allclose(found.profile["gain"], 1, atol=0.03)
    assert found.train is None
    assert found.classes == {}


def test_interval_holds_what_it_says_over_repetitions():
    """Kills: an error that ignores stratification (too wide), or the images (too narrow)."""
    exact = (D * MU**2 + D * S**2 + D) / 2 - D * math.pi * S / 4
    scores = []
    for seed in range(150):
        rows = images(gaussian_velocity, gaussian_images(200, seed), first=1000 * (seed + 1))
        mean = mean_over_time(rows, rows.balance)
        scores.append((mean.value - exact) / mean.error)
    assert np.std(scores) == pytest.approx(1, abs=0.2)
    assert abs(np.mean(scores)) < 0.3


def test_interval_of_images_that_come_several_times_is_that_of_other_images():
    """Kills: evaluations of one image taken for those of others (too narrow, as the spread is theirs)."""
    exact = (D * MU**2 + D * S**2 + D) / 2 - D * math.pi * S / 4
    field = Field.of(lambda x, t, labels: 3 + gaussian_velocity(x, t), shape=(D,))
    exact -= D * 3**2 / 2  # a field that is off by c spends the balance less ½‖c‖²
    scores, narrow = [], []
    for seed in range(100):
        x1 = gaussian_images(60, seed)
        numbers = torch.arange(60)
        terms = image_terms(field, [(x1[:30], numbers[:30], None), (x1[30:], numbers[30:], None)], **REPEATED)
        rows = Images.of([terms])
        assert len(rows) == 240
        assert np.array_equal(np.bincount(rows.column("image").astype(int)), np.full(60, 4))
        mean = mean_over_time(rows, rows.balance)
        scores.append((mean.value - exact) / mean.error)
        alone = Images(np.concatenate([rows.rows[:, :1], rows.rows[:, :1], rows.rows[:, 2:]], 1))
        narrow.append(mean_over_time(alone, alone.balance).error / mean.error)
    assert np.std(scores) == pytest.approx(1, abs=0.25)
    assert np.mean(narrow) < 0.8


REPEATED = {"count": 60, "repeats": 4, "path": LINEAR}


def test_controls_and_strata_narrow_the_interval():
    rows = images(gaussian_velocity, gaussian_images(500))
    plain = rows.balance.std() / math.sqrt(len(rows))
    assert mean_over_time(rows, rows.balance).error < 0.8 * plain
    some = spent(gaussian_velocity, 500, (D,), steps=20)
    assert mean_of_samples(some.energy, some.start).error < 0.8 * some.energy.std() / math.sqrt(500)


def test_a_field_that_overspends_has_an_excess_and_a_gain_below_one():
    """v = 1.3 v*: B = E⟨u, v⟩ - ½E‖v‖² = ½E‖v*‖² (2·1.3 - 1.3²), gain 1/1.3. Kills a wrong sign or a lost half."""
    more = lambda x, t: 1.3 * gaussian_velocity(x, t)  # noqa: E731
    rows = images(more, gaussian_images(20_000))
    exact = ((D * MU**2 + D * S**2 + D) / 2 - D * math.pi * S / 4) * (2 * 1.3 - 1.3**2)
    assert mean_over_time(rows, rows.balance).value == pytest.approx(exact, rel=0.01)
    found = energy_balance(spent(more, 2000, (D,)), rows)
    np.testing.assert_allclose(found.profile["gain"], 1 / 1.3, atol=0.03)
    assert found.excess_low > 0
    assert found.since == 0


def test_empirical_field_balances_on_its_own_set_and_exceeds_held_out_images():
    train, held = gaussian_images(12, 1), gaussian_images(400, 2)
    field = EmpiricalVelocity(train)
    own = images(lambda x, t: field(x, t, None), train.repeat(400, 1))
    found = energy_balance(
        spent(lambda x, t: field(x, t, None), 4000, (D,)), images(lambda x, t: field(x, t, None), held), own
    )
    assert found.power == pytest.approx(found.train, rel=0.02)
    np.testing.assert_allclose(found.profile["power"], found.profile["train"], rtol=0.1)
    late = (found.profile["t"] > 0.5) & (found.profile["t"] < 0.9)  # later its error on other images has no variance
    assert (found.profile["excess_low"][late] > 0).all()
    assert (found.profile["gain"][late] < 0.9).all()


@pytest.mark.parametrize("name", ["gvp", "vp"])
def test_other_paths_keep_the_identity(name):
    """N(μ, s²I) on α, σ: v = α'μ + (α'αs² + σ'σ)/(α²s² + σ²) (x - αμ)."""
    on = path(name)

    def velocity(x, t):
        c = on.coefficients(t, x)
        slope = (c.d_alpha * c.alpha * S**2 + c.d_sigma * c.sigma) / ((c.alpha * S) ** 2 + c.sigma**2)
        return c.d_alpha * MU + slope * (x - c.alpha * MU)

    rows = images(velocity, gaussian_images(20_000), on=on)
    found = energy_balance(spent(velocity, 2000, (D,), steps=400), rows)
    inner = found.profile["t"] < 0.9
    np.testing.assert_allclose(found.profile["power"][inner], found.profile["held_out"][inner], rtol=0.08)


def test_optimal_transport_keeps_the_identity_over_coupled_pairs():
    """One dimension, N(0, s²): OT pairs by rank, v* = (s - 1) x0 in the limit; A and B both are ½(1 - s)²."""
    x1 = S * torch.randn(8_000, 1, generator=torch.Generator().manual_seed(3))
    velocity = lambda x, t: (S - 1) * x / (1 - t + t * S).view(-1, 1)  # noqa: E731
    rows = images(velocity, x1, coupling="ot", batch=500)
    found = energy_balance(spent(velocity, 4000, (1,)), rows)
    exact = (1 - S) ** 2 / 2
    assert found.conditional == pytest.approx(exact, rel=0.05)
    assert found.held_out == pytest.approx(exact, rel=0.05)
    assert found.power == pytest.approx(exact, rel=0.05)


def test_two_classes_balance_one_by_one():
    shift = torch.tensor([[-2.0], [2.0]])

    def velocity_of(labels):
        return lambda x, t: gaussian_velocity(x - t.view(-1, 1) * shift[labels], t) + shift[labels]

    labels = torch.arange(8000) % 2
    rows = images(velocity_of(labels[:8000]), gaussian_images(8000) + shift[labels], labels=labels, batch=8000)
    found = energy_balance(spent(velocity_of(labels[:2000]), 2000, (D,), labels=labels[:2000]), rows)
    assert set(found.classes) == {0, 1}
    for label, one in found.classes.items():
        exact = D * ((MU + float(shift[label])) ** 2 + S**2 + 1) / 2 - D * math.pi * S / 4
        assert isinstance(one, Balance)
        assert one.profile == {}
        assert one.held_out == pytest.approx(exact, rel=0.02)
        assert one.power == pytest.approx(exact, rel=0.02)


def test_nothing_finite_is_one_line():
    rows = images(gaussian_velocity, gaussian_images(8))
    none = Images(rows.rows[:0])
    with pytest.raises(KineticError, match="needs held-out images and samples"):
        energy_balance(spent(gaussian_velocity, 4, (D,), steps=2), none)
    broken = images(lambda x, t: x * math.nan, gaussian_images(8))
    assert len(broken) == 0


def test_gap_of_a_field_that_knows_its_training_images_and_of_one_that_knows_none():
    few = gaussian_images(40, seed=5)
    copying = EmpiricalVelocity(few)

    def empirical(x, t):  # the closed-form field but near t = 1, where its loss on other images has no variance
        return torch.where((t < 0.85).view(-1, 1), copying(x, t.clamp(max=0.85), None), gaussian_velocity(x, t))

    held, samples = gaussian_images(400, seed=6), spent(gaussian_velocity, 200, (D,))
    other = gaussian_images(400, seed=7)
    known = energy_balance(samples, images(empirical, held), images(empirical, few, first=2 * 10**6))
    assert known.gap == pytest.approx(known.train - known.held_out)
    assert known.gap_low > 0
    honest = energy_balance(samples, images(gaussian_velocity, held), images(gaussian_velocity, other, first=3 * 10**6))
    assert honest.gap_low < 0 < honest.gap_high
    alone = energy_balance(samples, images(gaussian_velocity, held))
    assert math.isnan(alone.gap_low)


def test_only_motion_that_is_shaped_or_guided_or_unfinished_is_refused():
    assert refusal(Sampler()) is None
    assert refusal(Sampler(kts=KTS(tau=0.5))) is None  # where the early energy ends shapes nothing
    assert "shaped" in refusal(Sampler(kts=KTS.preset("balanced")))
    assert "shaped" in refusal(Sampler(kts=KTS(gains=((0.5, 0.9),))))
    assert "guidance 2" in refusal(Sampler(guidance=2.0))
    assert "stopped" in refusal(Sampler(end=0.9))
