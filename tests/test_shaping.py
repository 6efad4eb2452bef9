"""Kinetic trajectory shaping: the gain, its limits, and what it does to a motion with an exact answer."""

import math
from itertools import pairwise

import pytest
import torch

from kinetic.errors import KineticError
from kinetic.flow.field import Field
from kinetic.flow.integration import integrate
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import FORMS, KTS, PRESETS, calibrated, shaped
from kinetic.tensors import seeded_noise

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def formula(kts: KTS, t: float) -> float:
    """η as written in the paper, in plain Python."""
    u, s = 1 - t / kts.tau, (t - kts.tau) / (1 - kts.tau)
    if t < kts.tau:
        scaled = {"linear": u, "constant": 1.0, "exponential": (math.exp(kts.k * u) - 1) / (math.exp(kts.k) - 1)}
        return 1 + kts.alpha * scaled[kts.launch]
    return 1 - kts.beta * {"linear": s, "constant": 1.0, "exponential": math.exp(kts.k * s) - 1}[kts.landing]


@pytest.mark.parametrize("launch", FORMS)
@pytest.mark.parametrize("landing", FORMS)
@pytest.mark.parametrize(("tau", "k"), [(0.6, 3.0), (0.2, 1.0), (0.85, 3.7)])
def test_gain_equals_the_formula(launch: str, landing: str, tau: float, k: float) -> None:
    kts = KTS(0.03, 0.02, tau=tau, k=k, launch=launch, landing=landing)  # type: ignore[arg-type]
    times = sorted([*torch.linspace(0, 1, 101, dtype=F64).tolist(), tau, math.nextafter(tau, 0)])
    expected = torch.tensor([formula(kts, t) for t in times], dtype=F64)
    torch.testing.assert_close(kts.gain(torch.tensor(times, dtype=F64)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
def test_landing_starts_at_tau_in_float32_too(tau: float) -> None:
    kts = KTS(0.1, 0.1, tau=tau, launch="constant", landing="constant")
    at_tau = torch.tensor(tau, dtype=torch.float32)
    assert kts.gain(at_tau).item() == pytest.approx(0.9)
    assert kts.gain(torch.nextafter(at_tau, torch.tensor(0.0))).item() == pytest.approx(1.1)


def test_defaults_and_presets() -> None:
    assert (KTS().tau, KTS().k, KTS().launch, KTS().landing) == (0.6, 3.0, "linear", "exponential")
    assert PRESETS == {"off": (0, 0), "balanced": (0.01, 0.01), "launch": (0.02, 0), "landing": (0, 0.02)}
    for name, (alpha, beta) in PRESETS.items():
        assert KTS.preset(name) == KTS(alpha, beta)
    assert [name for name in PRESETS if KTS.preset(name).is_off] == ["off"]


def test_overrides() -> None:
    kts = KTS.preset("balanced", beta=0.0, tau=0.4, k=2, launch="constant", landing="linear")
    assert kts == KTS(0.01, 0.0, tau=0.4, k=2, launch="constant", landing="linear")
    assert KTS(**kts.to_dict()) == kts  # type: ignore[arg-type]


def test_a_reversing_gain_is_refused_with_the_largest_beta() -> None:
    with pytest.raises(ValueError, match=r"beta=0.06 would reverse .* is 0\.0523956"):
        KTS(beta=0.06)
    with pytest.raises(ValueError, match="allowed for the linear landing with k=3 is 1"):
        KTS(beta=1.01, landing="linear")


@pytest.mark.parametrize("landing", FORMS)
@pytest.mark.parametrize("k", [0.5, 3.0, 20.0])
def test_the_largest_beta_named_is_allowed_and_stops_the_motion(landing: str, k: float) -> None:
    largest = KTS(k=k, landing=landing).largest_beta  # type: ignore[arg-type]
    kts = KTS(beta=largest, k=k, landing=landing)  # type: ignore[arg-type]
    assert 0 <= kts.gain(1.0) < 1e-4
    with pytest.raises(ValueError, match="largest beta"):
        KTS(beta=largest * 1.0001, k=k, landing=landing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -0.1}, "alpha must be a finite number of at least 0, got -0.1"),
        ({"alpha": math.nan}, "alpha"),
        ({"beta": math.inf}, "beta must be a finite"),
        ({"tau": 0.0}, "tau must lie strictly between 0 and 1, got 0"),
        ({"tau": 1.0}, "tau"),
        ({"k": 0.0}, "k must lie above 0"),
        ({"launch": "cubic"}, "launch form 'cubic'; choose from linear, constant, exponential"),
        ({"landing": "cubic"}, "landing form 'cubic'"),
    ],
)
def test_bad_values_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KTS(**wrong)  # type: ignore[arg-type]


def test_an_unknown_preset_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="'soft'; choose from off, balanced, launch, landing"):
        KTS.preset("soft")


def test_shaped_keeps_the_signature_and_multiplies() -> None:
    kts = KTS.preset("balanced", alpha=0.5)
    x = torch.ones(3, 2, 2)

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 2 * x

    t = torch.tensor([0.0, 0.3, 1.0])
    expected = 2 * kts.gain(t)[:, None, None].expand(3, 2, 2)
    torch.testing.assert_close(shaped(field, kts)(x, t), expected)
    torch.testing.assert_close(shaped(field, kts)(x, t[0]), torch.full((3, 2, 2), 3.0))
    assert shaped(field, KTS.preset("off")) is field


@pytest.mark.parametrize("method", ["midpoint", "rk4", "dopri5"])
def test_shaping_inside_and_outside_the_integration_agree(method: str) -> None:
    kts, x0 = KTS.preset("balanced", alpha=0.3), torch.randn(4, 3, dtype=F64)

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) + t[:, None]

    inside = integrate(field, x0, method=method, kts=kts, rtol=1e-9, atol=1e-9)
    outside = integrate(shaped(field, kts), x0, method=method, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inside.x, outside.x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(inside.energy, outside.energy, rtol=1e-7, atol=1e-7)
    assert (inside.energy - inside.field_energy).abs().min() > 1e-3


def test_constant_field_under_a_gain_has_the_closed_form() -> None:
    c, kts = torch.randn(4, 3, dtype=F64), KTS(0.4, 0.3, launch="linear", landing="linear")
    result = integrate(lambda x, t: c, torch.zeros(4, 3, dtype=F64), method="dopri5", kts=kts, rtol=1e-9, atol=1e-9)
    first = 0.6 * (1 + 0.2) + 0.4 * (1 - 0.15)
    second = 0.6 * (1 + 0.4 + 0.16 / 3) + 0.4 * (1 - 0.3 + 0.09 / 3)
    torch.testing.assert_close(result.x, c * first, rtol=1e-8, atol=0)
    torch.testing.assert_close(result.energy, 0.5 * c.square().sum(1) * second, rtol=1e-8, atol=0)
    torch.testing.assert_close(result.field_energy, 0.5 * c.square().sum(1), rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", ["balanced", "launch", "landing"])
def test_shaping_on_gaussian_data_has_the_closed_form(name: str) -> None:
    s, kts, z = 0.25, KTS.preset(name), torch.randn(4, 3, dtype=F64)

    def rate(t: torch.Tensor) -> torch.Tensor:
        return (t * s * s - (1 - t)) / ((1 - t) ** 2 + (t * s) ** 2)

    result = integrate(lambda x, t: rate(t)[:, None] * x, z, method="dopri5", kts=kts, rtol=1e-9, atol=1e-9)
    t = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    torch.testing.assert_close(result.x, z * torch.exp((kts.gain(t) * rate(t)).mean()), rtol=1e-7, atol=0)


def test_constant_schedules_under_dopri5_equal_two_integrations() -> None:
    kts, x0 = KTS(0.4, 0.3, launch="constant", landing="constant"), torch.linspace(-2, 2, 12, dtype=F64).view(4, 3)

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * x) + t[:, None]

    whole = integrate(field, x0, method="dopri5", kts=kts, rtol=1e-9, atol=1e-9)
    tau = kts.tau
    first = integrate(lambda x, t: tau * 1.4 * field(x, tau * t), x0, method="dopri5", rtol=1e-9, atol=1e-9)
    second = integrate(
        lambda x, t: (1 - tau) * 0.7 * field(x, tau + (1 - tau) * t), first.x, method="dopri5", rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(whole.x, second.x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(whole.early, first.energy / tau, rtol=1e-7, atol=0)
    torch.testing.assert_close(whole.late, second.energy / (1 - tau), rtol=1e-7, atol=0)
    one_sided = integrate(shaped(field, kts), x0, method="dopri5", rtol=1e-9, atol=1e-9)  # not told of the jump
    assert whole.nfe < one_sided.nfe


def test_the_residual_that_a_landing_leaves() -> None:
    # One training point: what is left of the noise is the product of (1 - η dt/(1-t)), known for 20, 100, 1,000 steps.
    x1, x0 = torch.full((1, 4), 3.0, dtype=F64), torch.randn(2, 4, dtype=F64)

    def residual(name: str, steps: int, average: bool = False) -> float:
        kts = KTS.preset(name, alpha=0.01)
        result = integrate(lambda x, t: (x1 - x) / (1 - t[:, None]), x0, steps=steps, kts=kts, average_gain=average)
        return float(((result.x - x1).norm(dim=1) / (x0 - x1).norm(dim=1))[0])

    assert [residual("balanced", n) for n in (20, 100, 1000)] == pytest.approx([0.0072, 0.0027, 0.00046], rel=0.03)
    # The mean over the last step is a smaller gain than the one it starts with: more is left, of few steps above all.
    means = [residual("balanced", n, average=True) for n in (20, 100, 1000)]
    assert means == pytest.approx([0.00921, 0.00285, 0.00046], rel=0.01)


def test_a_calibrated_gain_is_linear_between_middles_smoothed_and_clipped() -> None:
    kts = calibrated([0.25, 0.5, 0.75], [1.2, 0.8, 0.0], floor=0.3)
    knots = [(2 * 1.2 + 0.8) / 3, (1.2 + 2 * 0.8) / 4, 0.8 / 3]
    assert kts.gains == ((0.25, 1.0), (0.5, pytest.approx(knots[1])), (0.75, 0.3))
    expected = [1, 1, (1 + knots[1]) / 2, knots[1], (knots[1] + 0.3) / 2, 0.3, 0.3]
    times = [0, 0.25, 0.375, 0.5, 0.625, 0.75, 1]
    assert [kts.gain(t) for t in times] == pytest.approx(expected)
    torch.testing.assert_close(kts.gain(torch.tensor(times)), torch.tensor(expected))
    assert not kts.is_off
    assert not kts.jumps


@pytest.mark.parametrize("bins", [1, 2, 7])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_a_calibrated_gain_that_is_constant_scales_the_motion(bins: int, method: str) -> None:
    kts = calibrated([(i + 0.5) / bins for i in range(bins)], [0.7] * bins)
    c, x0 = torch.tensor([1.0, -2.0, 0.5]), torch.randn(4, 3)
    found = integrate(lambda x, t: c.expand_as(x), x0, method=method, steps=6, kts=kts)
    torch.testing.assert_close(found.x, x0 + 0.7 * c)
    torch.testing.assert_close(found.energy, torch.full((4,), 0.49 * float(c.square().sum()) / 2))


def test_a_calibrated_gain_is_saved_as_numbers_and_others_as_they_were() -> None:
    kts = calibrated([0.25, 0.75], [1.0, 0.5], tau=0.4)
    saved = Sampler(kts=kts).to_dict()
    assert saved["kts"]["gains"] == [[0.25, pytest.approx(5 / 6)], [0.75, pytest.approx(2 / 3)]]
    assert Sampler.from_dict(saved) == Sampler(kts=kts)
    assert "gains" not in KTS.preset("balanced").to_dict()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: calibrated([0.5], [1.0], floor=0.0), "floor must lie above 0"),
        (lambda: KTS(0.1, gains=((0.5, 1.0),)), "do not go together"),
        (lambda: KTS(gains=((0.5, 1.0), (0.5, 1.0))), "rising times"),
        (lambda: KTS(gains=()), "at least one"),
        (lambda: KTS(gains=((0.5, float("nan")),)), "got nan at 0.5"),
    ],
)
def test_gains_that_cannot_be_are_refused(make, words: str) -> None:
    with pytest.raises(KineticError, match=words):
        make()


SHAPINGS = [KTS(0.3, 0.02, launch=a, landing=b) for a in FORMS for b in FORMS]  # type: ignore[arg-type]
SHAPINGS += [KTS(0.2, 0.1, tau=0.35, k=0.7, launch="exponential"), KTS(gains=((0.1, 1.2), (0.5, 0.4), (0.9, 0.8)))]


@pytest.mark.parametrize("kts", SHAPINGS)
def test_the_mean_gain_is_the_integral_over_the_step(kts: KTS) -> None:
    for start, end in [(0.0, 0.07), (0.1, 0.55), (0.3, 0.9), (0.6, 0.85), (0.93, 1.0), (0.0, 1.0)]:
        t = start + (end - start) * (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
        assert kts.mean_gain(start, end) == pytest.approx(float(kts.gain(t).mean()), abs=2e-5)  # a jump costs 1e-5
        assert kts.mean_gain(end, start) == kts.mean_gain(start, end)
    assert kts.mean_gain(0.3, 0.3) == kts.gain(0.3)
    assert kts.mean_gain(0.7, 0.7 + 1e-6) == pytest.approx(kts.gain(0.7), abs=1e-5)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2"])
@pytest.mark.parametrize("grid", [(0.0, 0.1, 0.45, 0.8, 1.0), (0.0, 1.0)])
def test_with_the_mean_gain_few_steps_go_as_far_as_many(method: str, grid: tuple[float, ...]) -> None:
    kts, c = KTS.preset("balanced", alpha=0.3), torch.randn(4, 3, dtype=F64)
    means = [kts.mean_gain(a, b) for a, b in pairwise(grid)]
    lengths = [b - a for a, b in pairwise(grid)]
    found = integrate(
        lambda x, t: c, torch.zeros(4, 3, dtype=F64), method=method, grid=grid, kts=kts, average_gain=True
    )
    torch.testing.assert_close(found.x, c * kts.mean_gain(0, 1), rtol=1e-12, atol=0)
    spent = sum(dt * mean**2 for dt, mean in zip(lengths, means, strict=True))  # of the gain that was applied
    torch.testing.assert_close(found.energy, 0.5 * c.square().sum(1) * spent, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.field_energy, 0.5 * c.square().sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["midpoint", "heun2"])
def test_the_mean_gain_leaves_methods_of_order_two_their_order(method: str) -> None:
    kts, x0 = KTS(0.4, 0.3, tau=0.5, landing="linear"), torch.randn(4, 3, dtype=F64)

    def end(how: str, steps: int, average: bool = True) -> torch.Tensor:
        options = {"method": how, "steps": steps, "kts": kts, "average_gain": average}
        return integrate(lambda x, t: torch.sin(2 * x) + t[:, None], x0, **options).x  # type: ignore[arg-type]

    true = end("rk4", 512, average=False)
    errors = [float((end(method, steps) - true).abs().max()) for steps in (16, 32)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("method", ["heun3", "rk4", "dopri5"])
def test_the_mean_gain_is_refused_where_it_would_cost_the_order(method: str) -> None:
    with pytest.raises(KineticError, match=f"euler, midpoint, heun2; {method} takes the gain at every evaluation"):
        Sampler(method=method, average_gain=True)
    with pytest.raises(KineticError, match="average_gain is for the methods"):
        integrate(lambda x, t: x, torch.zeros(1, 2), method=method, average_gain=True)


def test_the_mean_gain_is_a_setting_of_samplers_that_is_drawn_saved_and_shown() -> None:
    sampler = Sampler(steps=4, kts=KTS.preset("landing"), average_gain=True)
    assert Sampler.from_dict(sampler.to_dict()) == sampler
    assert "average_gain" not in Sampler(steps=4).to_dict()  # so that earlier identities hold
    ones = Field(lambda x, t, labels: torch.ones_like(x), shape=(3,))
    drawn = draw(ones, range(2), sampler=sampler)
    torch.testing.assert_close(drawn.x, seeded_noise(range(2), (3,)) + sampler.kts.mean_gain(0, 1))
    torch.testing.assert_close(1.5 * (sampler.gains(drawn.times) ** 2).mean(), drawn.energy[0].double())
    assert Sampler(steps=4).gains(drawn.times) is None
    assert Sampler(steps=4, kts=sampler.kts).gains(drawn.times).tolist() == sampler.kts.gain(drawn.times).tolist()
