"""Likelihood under the flow, against densities that are known and Jacobians that are computed another way."""

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kinetic.errors import KineticError
from kinetic.flow import likelihood
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.energy import STANDARD
from kinetic.flow.integration import integrate
from kinetic.flow.likelihood import (
    Divergence,
    LogLikelihood,
    bits_per_dim,
    dequantised,
    divergence,
    log_likelihood,
    normal_log_density,
    probes_of,
)
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS
from kinetic.flow.stochastic import Diffusion
from kinetic.nn import MLP, UNet
from tests.test_energy import Gaussian, noise

F64 = torch.float64
ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
WIDTHS = torch.tensor([0.3, 0.8, 1.7], dtype=F64)


class Anisotropic:
    """The exact field for data ~ N(0, R diag(s²) Rᵀ): its Jacobian has off-diagonal entries."""

    turn = torch.linalg.qr(noise(3, 3))[0]

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        t = t[:, None]
        rate = (t * WIDTHS**2 - (1 - t)) / ((1 - t) ** 2 + (t * WIDTHS) ** 2)
        return (rate * (x @ self.turn)) @ self.turn.T

    def log_p(self, x: Tensor) -> Tensor:
        covariance = self.turn @ torch.diag(WIDTHS**2) @ self.turn.T
        return torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), covariance).log_prob(x)


def unet(classes: int | None = None) -> UNet:
    torch.manual_seed(0)
    net = UNet(
        image_size=4,
        in_channels=1,
        model_channels=8,
        num_res_blocks=1,
        channel_mult=[1, 2],
        attention_resolutions=[2],
        num_head_channels=8,
        num_classes=classes,
    )
    for parameter in net.parameters():  # the last layers are zero at first
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


@pytest.mark.parametrize("method", ORDER)
@pytest.mark.parametrize("backwards", [False, True])
def test_density_of_a_gaussian_with_the_order_of_the_solver(method: str, backwards: bool) -> None:
    """Kills: a sum of left ends for every method, the wrong sign, noise's density left out, the sign backwards."""
    field, found = Anisotropic(), []
    for steps in (32, 64):
        sampler = Sampler(method=method, steps=steps)
        if backwards:
            x = noise(5, 3)
            log_p = log_likelihood(field, x, sampler=sampler, precision="64").log_likelihood
        else:
            end = integrate(field, noise(5, 3), solver=sampler, measures=(LogLikelihood(),))
            x, log_p = end.x, end.log_likelihood
        found.append(float((log_p - field.log_p(x)).abs().mean()))
    assert math.log2(found[0] / found[1]) == pytest.approx(ORDER[method], abs=0.45)
    assert found[1] < 0.2


def test_adaptive_methods_and_shifted_data() -> None:
    """Kills: the density of a later state than the noise, which adaptive methods look at first; the mean left out."""
    field, x0 = Gaussian(0.4, 1.5), noise(4, 2, 2)
    end = integrate(field, x0, method="dopri5", rtol=1e-9, atol=1e-9, measures=(LogLikelihood(),))
    truth = torch.distributions.Normal(1.5, 0.4).log_prob(end.x).flatten(1).sum(1)
    torch.testing.assert_close(end.log_likelihood, truth, rtol=1e-6, atol=1e-6)
    back = log_likelihood(lambda x, t, labels: field(x, t), end.x, sampler=Sampler(method="rk4", steps=200))
    torch.testing.assert_close(back.log_likelihood, truth, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(back.x, x0, rtol=1e-4, atol=1e-5)


def test_linear_field_and_its_shaping() -> None:
    """Kills: the gain left out of the divergence, or the divergence of one dimension."""
    x0 = noise(3, 5)
    plain, shaped = (
        integrate(lambda x, t: 0.7 * x, x0, method="rk4", steps=40, kts=kts, measures=(LogLikelihood(),))
        for kts in (KTS.preset("off"), KTS(alpha=0.3, beta=0.04, tau=0.5))
    )
    torch.testing.assert_close(plain.log_likelihood, normal_log_density(x0) - 5 * 0.7)
    grown = torch.log(shaped.x[:, 0] / x0[:, 0])
    torch.testing.assert_close(shaped.log_likelihood, normal_log_density(x0) - 5 * grown, rtol=0, atol=1e-6)
    assert abs(float(grown[0]) - 0.7) > 0.01


def test_exact_divergence_is_the_trace_of_the_jacobian() -> None:
    """Kills: a sum over the batch, or over one row of the Jacobian, or a row that another one leaks into."""
    net, x = unet().double(), noise(3, 1, 4, 4)
    t = torch.full((3,), 0.4, dtype=F64)
    found = divergence(lambda y: net(y, t, None), x, probes_of(16, 16))
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda y, i=i: net(y[None], t[i : i + 1], None)[0], x[i])
        torch.testing.assert_close(found[i], jacobian.reshape(16, 16).trace())


def test_probes_are_unbiased_fixed_and_exact_when_there_are_enough() -> None:
    """Kills: probes of length 1, drawn anew at each call, or always the axes' first ones."""
    matrix = noise(12, 12)
    estimates = [divergence(lambda y: y @ matrix.T, noise(1, 12), probes_of(3, 12, seed)) for seed in range(600)]
    spread = torch.stack(estimates).std() / math.sqrt(600)
    assert float((torch.stack(estimates).mean() - matrix.trace()).abs()) < 3.5 * float(spread)
    assert float(torch.stack(estimates).std()) > 0
    z = probes_of(3, 12)
    torch.testing.assert_close(z @ z.T, 4.0 * torch.eye(3, dtype=F64))
    assert Divergence(99).count(12) == 12
    assert Divergence().count(16) == 16
    assert Divergence().count(17) == 8
    net, x = unet(), noise(2, 1, 4, 4).float()
    how = {"sampler": Sampler(steps=3), "probes": 4}
    first, second = (log_likelihood(net, x, **how).log_likelihood for _ in range(2))
    assert torch.equal(first, second)
    assert torch.allclose(log_likelihood(net, x[:1], **how).log_likelihood, first[:1], rtol=1e-5)
    assert not torch.equal(log_likelihood(net, x, seed=1, **how).log_likelihood, first)


@pytest.mark.parametrize("method", ["heun2", "dopri5"])
def test_samples_and_energies_are_the_same_with_and_without(method: str) -> None:
    """Also in inference mode, for classes, and under guidance. Kills: steps chosen by the divergence; leaked grad."""
    sampler = Sampler(method=method, steps=4, guidance=2.0)
    net = unet(classes=3)
    with torch.inference_mode():
        plain, more = (
            draw(net, [1, 2, 3], labels=[0, 1, 2], sampler=sampler, measures=measures)
            for measures in (STANDARD, (*STANDARD, LogLikelihood(2)))
        )
    assert torch.equal(plain.x, more.x)
    assert torch.equal(plain.energy, more.energy)
    assert plain.nfe == more.nfe
    assert more.log_likelihood.isfinite().all()
    assert not more.x.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_backwards_of_forwards() -> None:
    """Kills: labels or guidance that only one direction knows."""
    sampler = Sampler(method="rk4", steps=30, guidance=1.5)
    torch.manual_seed(1)
    net = MLP(dim=3, width=16, depth=2, num_classes=2)
    how = {"labels": [0, 1], "sampler": sampler, "precision": "64"}
    drawn = draw(net.double(), [4, 5], measures=(*STANDARD, LogLikelihood()), **how)
    back = log_likelihood(net, drawn.x, **how)
    torch.testing.assert_close(back.log_likelihood, drawn.log_likelihood, rtol=0, atol=1e-5)
    torch.testing.assert_close(back.energy, drawn.energy, rtol=1e-5, atol=1e-6)


def test_bits_per_dimension() -> None:
    """A uniform density over [-1, 1] takes 8 bits less those of 255/256. Kills: nats for bits, the wrong correction."""
    log_p = torch.tensor([-6 * math.log(2.0)], dtype=F64)
    assert float(bits_per_dim(log_p, 6)) == pytest.approx(math.log2(255))
    x = torch.zeros(4, 50, 50)
    noisy = dequantised(x, [7, 8, 9, 10])
    assert torch.equal(noisy[1:2], dequantised(x[:1], [8]))
    assert not torch.equal(noisy[0], noisy[1])
    assert -1 / 255 <= float(noisy.min()) < -0.0039
    assert 0.0039 < float(noisy.max()) <= 1 / 255
    assert abs(float(noisy.mean())) < 1e-4


def test_everything_is_on_its_device_and_the_host_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the backward pass, which needs a GPU. Kills: probes left on the CPU, a value read by the host."""
    monkeypatch.setattr(torch.autograd, "grad", lambda v, x, along, retain_graph: (torch.zeros_like(x) * along,))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        net = MLP(dim=20, width=8)
        found = log_likelihood(net, torch.zeros(3, 20), sampler=Sampler(method="heun2", steps=2))
        assert found.log_likelihood.device.type == "cuda"
        assert found.log_likelihood.shape == (3,)


def test_what_has_no_likelihood_is_refused() -> None:
    """Kills: a divergence of 0 for what autograd does not see, also inside a composed field; a silent SDE."""
    empirical = EmpiricalVelocity(noise(4, 2).float())
    with pytest.raises(KineticError, match="the closed-form field is not differentiated: it flows onto"):
        log_likelihood(empirical, torch.zeros(2, 2), sampler=Sampler(steps=2))
    with pytest.raises(KineticError, match="cannot be differentiated in x"):
        log_likelihood(lambda x, t, labels: torch.ones_like(x), torch.zeros(2, 2))
    noisy = Sampler(steps=4, noise=Diffusion(strength=0.5))
    net = MLP(dim=2, width=8)
    with pytest.raises(KineticError, match="leave the noise out"):
        draw(net, [1], sampler=noisy, measures=(LogLikelihood(),))
    with pytest.raises(KineticError, match="leave the noise out"):
        log_likelihood(net, torch.zeros(1, 2), sampler=noisy)
    with pytest.raises(KineticError, match="probes must be at least 1, got 0"):
        Divergence(0)


def test_flow_from_a_later_time_is_not_known() -> None:
    """Kills: a state on the way taken for noise."""
    end = integrate(lambda x, t: x, noise(2, 3), steps=4, start=0.5, measures=(LogLikelihood(),))
    assert end.log_likelihood.isnan().all()
    assert likelihood.EXACT == 16
