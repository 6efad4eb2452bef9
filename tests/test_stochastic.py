"""Sampling with noise, against exact answers: marginals, weak orders, energies, and noise that is a seed's own."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.composition import away_from
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.integration import METHODS, integrate
from kinetic.flow.paths import LINEAR, AffinePath, path
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS
from kinetic.flow.stochastic import SHARE, Diffusion, Driven, normals
from kinetic.flow.trajectory import Trajectory
from kinetic.memorization.balance import refusal
from kinetic.studies.controls import stopped
from kinetic.tensors import seeded_noise

F64 = torch.float64
MU, S = 0.7, 0.5
FORMS = [
    Diffusion("constant", 0.7),
    Diffusion("linear", 2.0),
    Diffusion("churn", 1.5, 0.2, 0.6),
    Diffusion("churn", 1.5, 0.233, 0.611),  # begins and ends inside steps
]
NAMES = ["constant", "linear", "churn", "churn off the grid"]


def gaussian(x: Tensor, t: Tensor, *, on: AffinePath = LINEAR) -> Tensor:
    """The optimal field of N(μ, s²) on a path, for x [B, D]: α' μ + (σₜ'/σₜ)(x - α μ) with σₜ² = σ² + α² s²."""
    c = on.coefficients(t, x)
    rate = (c.sigma * c.d_sigma + c.alpha * c.d_alpha * S**2) / (c.sigma**2 + c.alpha**2 * S**2)
    return c.d_alpha * MU + rate * (x - c.alpha * MU)


def moments(noise: Diffusion | None, method: str, steps: int, *, on: AffinePath = LINEAR, end: float = 1.0):
    """Mean and variance [steps + 1] of x for x0 ~ N(0, 1), exactly, and the trajectory.

    A linear field makes every state affine in x0 and the noises: row 0 has none of them, row 1 x0 alone, the others
    the noise of one step alone.
    """
    x0 = torch.zeros(steps + 2, 1, dtype=F64)
    x0[1] = 1

    def normal(step: int) -> Tensor:
        return torch.zeros_like(x0).index_fill_(0, torch.tensor(2 + step), 1.0)

    found = integrate(
        lambda x, t: gaussian(x, t, on=on),
        x0,
        steps=steps,
        method=method,
        end=end,
        driven=None if noise is None else Driven(noise, normal, on),
        keep_path=steps + 2,
    )
    assert found.path is not None
    rows = found.path[:, :, 0]
    return rows[:, 0], (rows[:, 1:] - rows[:, :1]).square().sum(1), found


def mean_of(x: Trajectory, name: str) -> float:
    """Mean of a quadratic integral over x0 and the noises, from its values at 0 and at unit vectors of each.

    E f(ξ) = f(0) + Σ f_jj / 2, and f(eⱼ) - f(0) = f_j + f_jj / 2 holds a part that is linear: removed by -eⱼ.
    """
    values = x.columns[name]
    half = (len(values) - 1) // 2
    return float(values[0] + ((values[1 : 1 + half] + values[1 + half :]) / 2 - values[0]).sum())


def both_signs(noise: Diffusion, method: str, steps: int) -> Trajectory:
    """Rows 0, the unit vectors of x0 and of each step's noise, and their negatives."""
    x0 = torch.zeros(2 * (steps + 1) + 1, 1, dtype=F64)
    x0[1], x0[1 + steps + 1] = 1, -1

    def normal(step: int) -> Tensor:
        z = torch.zeros_like(x0)
        z[2 + step], z[2 + steps + 1 + step] = 1, -1
        return z

    return integrate(gaussian, x0, steps=steps, method=method, driven=Driven(noise, normal))


@pytest.mark.parametrize("noise", FORMS, ids=NAMES)
@pytest.mark.parametrize("name", ["linear", "gvp"])
def test_fine_steps_keep_the_marginals_at_every_time(name: str, noise: Diffusion) -> None:
    """Kills a score of the wrong sign, size or path, and noise or pull without the other."""
    on = path(name)
    mean, variance, found = moments(noise, "euler", 400, on=on)
    times = torch.cat([found.times, torch.ones(1, dtype=F64)])
    alpha, sigma = on.alpha(times), on.sigma(times)
    assert (mean - alpha * MU).abs().max() < 5e-3
    assert (variance - sigma**2 - (alpha * S) ** 2).abs().max() < 0.012
    half = moments(noise, "heun2", 200, on=on, end=0.5)[1][-1]
    assert half == pytest.approx(
        float(on.sigma(torch.tensor(0.5)) ** 2 + (on.alpha(torch.tensor(0.5)) * S) ** 2), abs=1e-4
    )


@pytest.mark.parametrize("noise", FORMS[1:], ids=NAMES[1:])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun2", 2)])
def test_weak_orders(method: str, order: int, noise: Diffusion) -> None:
    """Kills a second stage without the noise of the step, g at a step's start, and jumps that are not shared out."""
    errors = [abs(float(moments(noise, method, steps)[1][-1]) - S**2) for steps in (160, 320, 640)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.12)


@pytest.mark.parametrize("form", ["constant", "linear"])
@pytest.mark.parametrize("method", ["euler", "heun2"])
def test_data_on_a_point_does_not_overshoot(method: str, form: str) -> None:
    """Near t = 1 the score of a single image grows like 1/(1-t)²: kills a pull that is not held back there."""
    image = torch.full((1, 1, 2, 2), 0.5)
    found = draw(
        EmpiricalVelocity(image),
        range(16),
        shape=(1, 2, 2),
        keep_path=16,
        sampler=Sampler(method, noise=Diffusion(form)),
    )
    assert found.path is not None
    left = (found.path - found.path_times.view(-1, 1, 1, 1, 1) * image).std((1, 2, 3, 4)) / (1 - found.path_times)
    assert left[-20:-1].mean() == pytest.approx(1, abs=0.15)
    assert (found.x - image).abs().max() < (1e-5 if method == "euler" else 0.02)


def test_the_squares_of_steps() -> None:
    """Kills a strength that is not squared, a last step with noise, and a bound of another size."""
    times = (0.0, 0.25, 0.5, 0.75, 1.0)
    assert Diffusion("churn", 0.5, 0.125, 0.5).squares(times) == pytest.approx((0.125, 0.25, 0, 0))
    shares = [3 * ((1 - a) ** 3 - (1 - b) ** 3) / (3 * (b - a)) for a, b in pairwise(times)]
    linear = Diffusion("linear", 1.0).squares(times)
    assert linear == pytest.approx((*(share / 3 for share in shares[:3]), 0))
    assert Diffusion("constant", 1.0).squares(times) == pytest.approx((1, 1, 2 * SHARE * 0.5**2 / 0.25, 0))
    assert Diffusion("constant", 0.1).squares((0.0, 0.5, 0.9)) == pytest.approx((0.01, 0.01))
    with pytest.raises(KineticError, match=r"strength 2 is too much for a step of 0.25 at t = 0; take at most 1\.41"):
        Diffusion("constant", 2.0).squares(times)


@pytest.mark.parametrize("method", ["euler", "heun2"])
@pytest.mark.parametrize("kts", [KTS(), KTS(0.1, 0.02)], ids=["off", "shaped"])
def test_no_noise_is_the_ode_bit_for_bit(method: str, kts: KTS) -> None:
    x0 = seeded_noise(range(3), (5,))
    plain = integrate(gaussian, x0, method=method, steps=9, kts=kts)
    silent = integrate(
        gaussian, x0, method=method, steps=9, kts=kts, driven=Driven(Diffusion(strength=0), normals(range(3), x0))
    )
    assert torch.equal(plain.x, silent.x)
    assert all(torch.equal(plain.columns[name], silent.columns[name]) for name in plain.columns)
    assert torch.equal(plain.power, silent.power)


@pytest.mark.parametrize("noise", FORMS, ids=NAMES)
def test_the_mean_field_energy_does_not_depend_on_the_noise(noise: Diffusion) -> None:
    """½[μ² + 1 + s² - πs/2] for every g: kills a field energy that counts the pull, and noise of the wrong size."""
    exact = (MU**2 + 1 + S**2 - math.pi * S / 2) / 2
    assert mean_of(both_signs(noise, "heun2", 160), "field_energy") == pytest.approx(exact, rel=2e-3)


def test_the_mean_energy_of_the_drift() -> None:
    """∫ P + g⁴ d/(8σₜ²) - (g²/2) d σₜ'/σₜ dt, as E⟨v, s⟩ = -E div v: kills an energy of the field in its place."""
    noise = Diffusion("linear", 1.5)
    t = (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    square, variance = (1.5 * (1 - t)) ** 2, (1 - t) ** 2 + (t * S) ** 2
    rate = (t * S**2 - (1 - t)) / variance
    field = (MU**2 + 1 + S**2 - math.pi * S / 2) / 2
    exact = field + float((square**2 / (8 * variance) - square / 2 * rate).mean())
    found = both_signs(noise, "heun2", 160)
    assert mean_of(found, "energy") == pytest.approx(exact, rel=2e-3)
    assert mean_of(found, "energy") > 1.1 * field


def test_one_step_in_closed_form() -> None:
    """Velocity c at t = 0, where s = -x0: x0 + h(ηc - g²x0/2) + g√h ξ; kills a gain on the score."""
    x0, c, g, h = seeded_noise([1], (4,), dtype=F64), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=F64), 0.8, 0.25
    kts, xi = KTS(0.5, 0, launch="constant"), seeded_noise([2], (4,), dtype=F64)
    found = integrate(
        lambda x, t: c.expand_as(x), x0, steps=1, end=h, kts=kts, driven=Driven(Diffusion("constant", g), lambda i: xi)
    )
    drift = 1.5 * c - g**2 / 2 * x0
    torch.testing.assert_close(found.x, x0 + h * drift + g * math.sqrt(h) * xi)
    torch.testing.assert_close(found.energy, h * drift.square().sum(1) / 2)
    torch.testing.assert_close(found.early, found.energy)
    torch.testing.assert_close(found.field_energy, h * c.square().sum().reshape(1) / 2)
    torch.testing.assert_close(found.power[0], c.square().sum().reshape(1) / 2)


def towards(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """The Gaussian field as a network."""
    return gaussian(x, t)


@pytest.mark.parametrize("noise", [None, *FORMS], ids=["ode", *NAMES])
def test_samples_of_seeds_have_mean_variance_and_energy(noise: Diffusion | None) -> None:
    """Kills noise that repeats over steps or seeds, which would be too strong or of one sign."""
    found = draw(towards, range(40), shape=(500,), sampler=Sampler("heun2", steps=40, noise=noise))
    n = found.x.numel()
    assert found.x.mean() == pytest.approx(MU, abs=4 * S / math.sqrt(n))
    assert found.x.var() == pytest.approx(S**2, abs=4 * S**2 * math.sqrt(2 / n) + 1e-3)
    exact = (MU**2 + 1 + S**2 - math.pi * S / 2) / 2
    assert found.field_energy.mean() / 500 == pytest.approx(exact, abs=0.02)


class Classes:
    """A conditional network: class k leads to the mean k; the null label, 3, to 0."""

    num_classes = 3

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        return gaussian(x, t) - MU + (labels % 3).to(x)[:, None]


@pytest.mark.parametrize("size", [1, 3])
def test_the_noise_of_a_sample_is_its_own(size: int) -> None:
    sampler = Sampler("heun2", steps=6, guidance=1.5, kts=KTS.preset("balanced"), noise=Diffusion("linear", 1.0))
    labels = torch.arange(6) % 3
    whole = draw(Classes(), range(6), shape=(4,), labels=labels, sampler=sampler)
    parts = [
        draw(Classes(), range(i, i + size), shape=(4,), labels=labels[i : i + size], sampler=sampler)
        for i in range(0, 6, size)
    ]
    for name in ("x", "energy", "field_energy", "drift"):
        torch.testing.assert_close(
            torch.cat([getattr(p, name) for p in parts]), getattr(whole, name), rtol=1e-5, atol=1e-6
        )
    x0 = seeded_noise(range(6), (4,))
    draws = [normals(range(6), x0)(step) for step in range(2)]
    assert torch.equal(draws[0][2:4], normals([2, 3], x0)(0))
    assert not torch.isclose(draws[0], draws[1]).any()
    assert not torch.isclose(draws[0], x0).any()


def test_the_score_of_a_guided_and_of_a_composed_field_is_the_combination_of_scores() -> None:
    """An affine conversion: kills one whose weights of x would be multiplied by the guidance."""
    t, x = torch.tensor([0.4, 0.4]), seeded_noise([0, 1], (4,))
    labels, null = torch.tensor([1, 2]), torch.tensor([3, 3])
    a, b = (LINEAR.convert(Classes()(x, t, one), x, t, given="velocity", to="score") for one in (labels, null))
    mixed = Classes()(x, t, null).lerp(Classes()(x, t, labels), 2.5)
    torch.testing.assert_close(LINEAR.convert(mixed, x, t, given="velocity", to="score"), b.lerp(a, 2.5))
    base, other = Field.of(Classes(), shape=(4,)), Field.of(Classes(), shape=(4,))
    same = away_from(base, other, weight=0.5)  # of a field with itself, it is that field
    sampler = Sampler(steps=8, noise=Diffusion("constant", 0.5))
    drawn, alone = (draw(field, [0, 1], labels=[1, 2], sampler=sampler) for field in (same, base))
    torch.testing.assert_close(drawn.x, alone.x)
    torch.testing.assert_close(drawn.energy, alone.energy)


def test_a_flow_that_is_stopped_keeps_the_noise() -> None:
    sampler = Sampler(steps=50, noise=Diffusion("linear", 1.0))
    early = stopped(sampler, 0.9)
    assert early.noise == sampler.noise
    whole = draw(towards, range(3), shape=(4,), sampler=sampler, keep_path=3)
    part = draw(towards, range(3), shape=(4,), sampler=early)
    assert whole.path is not None
    torch.testing.assert_close(part.x, whole.path[45])


def test_settings_survive_plain_types_and_none_leaves_them_as_they_were() -> None:
    assert "noise" not in Sampler().to_dict()
    for noise in FORMS:
        values = Sampler(noise=noise).to_dict()
        assert Sampler.from_dict(values).noise == noise
        assert {type(value) for value in values["noise"].values()} <= {str, float}
    assert Sampler.from_dict({"noise": "churn:1:0.2-0.8"}).noise == Diffusion("churn", 1, 0.2, 0.8)
    assert Diffusion.parse("linear:1.5") == Diffusion("linear", 1.5)
    assert refusal(Sampler(noise=FORMS[0])) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("white:1", "cannot be read; write constant:G"),
        ("constant", "cannot be read"),
        ("constant:1:0-1", "cannot be read"),
        ("linear:x", "cannot be read"),
        ("churn:1", "cannot be read"),
        ("churn:1:0.2", "cannot be read"),
        ("churn:1:0.8-0.2", "two times that rise"),
        ("linear:-1", r"strength must lie in \[0, 1000\], got -1"),
        ("linear:nan", "strength must lie"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(KineticError, match=message):
        Diffusion.parse(text)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("euler", "heun2")])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(KineticError, match=f"stochastic Heun.*got {method}"):
        Sampler(method, noise=Diffusion())
    with pytest.raises(KineticError, match=f"got {method}"):
        integrate(gaussian, torch.zeros(1, 1), method=method, driven=Driven(Diffusion(), lambda i: torch.zeros(1, 1)))


def test_noise_goes_forwards_and_takes_times_for_churning_alone() -> None:
    with pytest.raises(KineticError, match="forwards in time"):
        integrate(
            gaussian, torch.zeros(1, 1), start=0.5, end=0.0, driven=Driven(Diffusion(), lambda i: torch.zeros(1, 1))
        )
    with pytest.raises(KineticError, match="linear takes no times"):
        Diffusion("linear", 1.0, 0.2, 0.8)
    with pytest.raises(KineticError, match="unknown noise form 'pink'"):
        Diffusion("pink")  # type: ignore[arg-type]
