"""The probability paths: schedules, boundary values, and conversions against the closed form of Gaussian data."""

import copy
import itertools
import math
import pickle
from typing import get_args

import pytest
import torch

from kinetic.flow.paths import GVP, LINEAR, AffinePath, Quantity, path, vp_path

NAMES = ("linear", "gvp", "vp")
QUANTITIES = get_args(Quantity)
INNER = torch.tensor([0.01, 0.2, 0.5, 0.83, 0.99], dtype=torch.float64)


def noise_and_data(rows: int = 5, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2, rows, 3, 2, 2, generator=generator, dtype=torch.float64).to(dtype)
    return draw[0], draw[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight", ["alpha", "sigma"])
def test_derivatives_agree_with_autograd_and_finite_differences(name, weight):
    this = path(name)
    schedule, derivative = getattr(this, weight), getattr(this, f"d_{weight}")
    t = INNER.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule(t).sum(), t)
    torch.testing.assert_close(derivative(INNER), slope, rtol=1e-12, atol=1e-12)
    step = 1e-6
    torch.testing.assert_close(
        derivative(INNER), (schedule(INNER + step) - schedule(INNER - step)) / (2 * step), rtol=1e-6, atol=1e-6
    )


def test_schedules_are_the_published_ones():
    t = INNER
    torch.testing.assert_close(LINEAR.alpha(t), t)
    torch.testing.assert_close(LINEAR.sigma(t), 1 - t)
    torch.testing.assert_close(GVP.alpha(t), torch.sin(math.pi * t / 2))
    torch.testing.assert_close(GVP.sigma(t), torch.cos(math.pi * t / 2))
    # β runs from 20 at noise to 0.1 at data, and α = exp(-½ ∫ₜ¹ β)
    beta_integral = 0.1 * (1 - t) + 19.9 * (1 - t) ** 2 / 2
    torch.testing.assert_close(path("vp").alpha(t), torch.exp(-beta_integral / 2))


@pytest.mark.parametrize("name", ["gvp", "vp"])
def test_variance_is_preserved(name):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(path(name).alpha(t) ** 2 + path(name).sigma(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("name", ["linear", "gvp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_exactly_noise_and_data(name, dtype):
    x0, x1 = noise_and_data(dtype=dtype)
    assert torch.equal(path(name).sample(x0, x1, 0.0).xt, x0)
    assert torch.equal(path(name).sample(x0, x1, 1.0).xt, x1)


def test_vp_ends_are_close_and_finite():
    x0, x1 = noise_and_data(dtype=torch.float32)
    noise, data = path("vp").sample(x0, x1, 0.0), path("vp").sample(x0, x1, 1.0)
    torch.testing.assert_close(noise.xt, x0 + math.exp(-5.025) * x1, atol=1e-4, rtol=0)
    torch.testing.assert_close(data.xt, x1, atol=5e-4, rtol=0)
    assert data.target.isfinite().all()
    assert noise.target.isfinite().all()


def test_float32_schedules_keep_their_relative_precision_next_to_the_data():
    t = torch.tensor([1 - 2**-20, 1 - 2**-12, 0.9, 0.3])
    for name in NAMES:
        for weight in ("alpha", "sigma", "d_alpha", "d_sigma"):
            schedule = getattr(path(name), weight)
            torch.testing.assert_close(schedule(t).double(), schedule(t.double()), rtol=1e-5, atol=0)


def test_linear_sample_is_the_conditional_ot_interpolation():
    x0, x1 = noise_and_data()
    sample = LINEAR.sample(x0, x1, INNER)
    for i, t in enumerate(INNER.tolist()):
        torch.testing.assert_close(sample.xt[i], (1 - t) * x0[i] + t * x1[i])
    torch.testing.assert_close(sample.target, x1 - x0)
    assert torch.equal(sample.t, INNER)


@pytest.mark.parametrize("name", NAMES)
def test_target_is_the_time_derivative_of_the_state(name):
    x0, x1 = noise_and_data()
    step = 1e-6
    before, after = (path(name).sample(x0, x1, INNER + d) for d in (-step, step))
    torch.testing.assert_close(
        path(name).sample(x0, x1, INNER).target, (after.xt - before.xt) / (2 * step), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("given", "to"), list(itertools.product(QUANTITIES, QUANTITIES)))
def test_conversions_agree_on_a_known_pair_of_noise_and_data(name, given, to):
    x0, x1 = noise_and_data()
    this = path(name)
    sample = this.sample(x0, x1, INNER)
    sigma = this.sigma(INNER).reshape(-1, 1, 1, 1)
    truth = {"velocity": sample.target, "x1": x1, "x0": x0, "score": -x0 / sigma}
    answer = this.convert(truth[given], sample.xt, INNER, given=given, to=to)
    torch.testing.assert_close(answer, truth[to], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", QUANTITIES)
def test_gaussian_data_has_the_closed_form_velocity_score_and_posterior(name, given):
    mean, std = 0.7, 0.3
    this, t = path(name), INNER.reshape(-1, 1)
    xt = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = this.alpha(t), this.sigma(t), this.d_alpha(t), this.d_sigma(t)
    variance = sigma**2 + alpha**2 * std**2
    residual = (xt - alpha * mean) / variance
    truth = {
        "velocity": d_alpha * mean + (sigma * d_sigma + alpha * d_alpha * std**2) * residual,
        "score": -residual,
        "x1": mean + alpha * std**2 * residual,
        "x0": sigma * residual,
    }
    for to in QUANTITIES:
        answer = this.convert(truth[given], xt, INNER, given=given, to=to)
        torch.testing.assert_close(answer, truth[to], rtol=1e-8, atol=1e-8)


def test_gaussian_score_is_the_gradient_of_the_log_density():
    t, std = 0.6, 0.5
    spread = math.hypot(1 - t, t * std)
    xt = torch.linspace(-2, 2, 7, dtype=torch.float64).reshape(7, 1).requires_grad_()
    log_density = torch.distributions.Normal(t * 1.5, spread).log_prob(xt)
    (score,) = torch.autograd.grad(log_density.sum(), xt)
    velocity = 1.5 + (t * std**2 - (1 - t)) / spread**2 * (xt.detach() - t * 1.5)  # μ + (σ'/σ)(x - tμ)
    answer = LINEAR.convert(velocity, xt.detach(), t, given="velocity", to="score")
    torch.testing.assert_close(answer, score)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize(("given", "to"), [("velocity", "x1"), ("velocity", "x0"), ("score", "x0")])
def test_regular_conversions_are_finite_and_right_at_both_ends(name, t, given, to):
    x0, x1 = noise_and_data(dtype=torch.float32)
    this = path(name)
    sample = this.sample(x0, x1, t)
    sigma = this.sigma(sample.t).reshape(-1, 1, 1, 1)
    score = torch.where(sigma > 0, -x0 / sigma, torch.zeros_like(x0))
    truth = {"velocity": sample.target, "x1": x1, "x0": torch.where(sigma > 0, x0, torch.zeros_like(x0))}
    if given == "velocity":
        truth["x0"] = x0
    answer = this.convert(sample.target if given == "velocity" else score, sample.xt, t, given=given, to=to)
    torch.testing.assert_close(answer, truth[to], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("given", "to"), list(itertools.permutations(QUANTITIES, 2)))
def test_every_vp_conversion_is_finite_at_both_ends(given, to):
    value, xt = noise_and_data(dtype=torch.float32)
    for t in (0.0, 1.0):
        assert path("vp").convert(value, xt, t, given=given, to=to).isfinite().all()


def test_singular_ends_do_not_pretend():
    value, xt = noise_and_data(dtype=torch.float32)
    assert not LINEAR.convert(value, xt, 1.0, given="velocity", to="score").isfinite().any()
    assert not LINEAR.convert(value, xt, 0.0, given="score", to="velocity").isfinite().any()


def test_narrow_types_are_computed_in_float32_and_float64_is_kept():
    x0, x1 = noise_and_data()
    sample = LINEAR.sample(x0.bfloat16(), x1.bfloat16(), torch.full((5,), 0.999))
    assert {sample.xt.dtype, sample.t.dtype, sample.target.dtype} == {torch.float32}
    assert sample.t[0].item() == pytest.approx(0.999, abs=1e-7)  # bf16 would make it 1
    answer = LINEAR.convert(x0.half(), x1.half(), 0.5, given="velocity", to="x1")
    assert answer.dtype == torch.float32
    assert LINEAR.convert(x0.half(), x1.half(), 0.5, given="x1", to="x1").dtype == torch.float32
    assert LINEAR.sample(x0.float(), x1, INNER.float()).xt.dtype == torch.float64


def test_time_may_be_a_number_a_scalar_or_a_row():
    x0, x1 = noise_and_data()
    row = LINEAR.sample(x0, x1, torch.full((5,), 0.25, dtype=torch.float64))
    for t in (0.25, torch.tensor(0.25)):
        sample = LINEAR.sample(x0, x1, t)
        assert sample.t.shape == (5,)
        assert torch.equal(sample.xt, row.xt)


def test_a_path_of_ones_own_is_four_functions():
    squared = AffinePath("squared", lambda t: t**2, lambda t: 1 - t**2, lambda t: 2 * t, lambda t: -2 * t)
    x0, x1 = noise_and_data()
    sample = squared.sample(x0, x1, 0.5)
    torch.testing.assert_close(sample.xt, 0.25 * x1 + 0.75 * x0)
    torch.testing.assert_close(squared.convert(sample.target, sample.xt, 0.5, given="velocity", to="x1"), x1)


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_picklable_copyable_and_named(name):
    assert path(name).name == name
    for twin in (pickle.loads(pickle.dumps(path(name))), copy.deepcopy(path(name))):
        assert torch.equal(twin.sigma(INNER), path(name).sigma(INNER))


def test_bad_input_names_the_value_and_the_choices():
    x0, x1 = noise_and_data()
    with pytest.raises(ValueError, match=r"unknown path 'cosine': choose from linear, gvp, vp"):
        path("cosine")
    with pytest.raises(ValueError, match=r"unknown quantity 'noise': choose from velocity, x1, x0, score"):
        LINEAR.convert(x0, x1, 0.5, given="noise", to="x1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one shape, got \(5, 3, 2, 2\) and \(1, 3, 2, 2\)"):
        LINEAR.sample(x0, x1[:1], 0.5)
    with pytest.raises(ValueError, match="one shape"):
        LINEAR.convert(x0, x1[:1], 0.5, given="velocity", to="x1")
    with pytest.raises(ValueError, match=r"0-d or \[5\].*got shape \(1,\)"):
        LINEAR.sample(x0, x1, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="beta_min=0"):
        vp_path(beta_min=0)
