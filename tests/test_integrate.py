"""The integration itself: times, counts, what is held, and that measuring changes nothing."""

import gc

import pytest
import torch
from torch import Tensor, nn

from kinetic.flow.adaptive import ADAPTIVE
from kinetic.flow.energy import Drift
from kinetic.flow.grids import time_grid
from kinetic.flow.integration import METHODS, integrate
from kinetic.flow.motion import IntegrationError
from kinetic.flow.shaping import KTS
from kinetic.flow.solvers import FIXED

JUMP = KTS(0.1, 0.1, tau=0.37, launch="constant", landing="constant")


class Net(nn.Module):
    """A small random velocity for [B, 3, 4, 4], whose rows do not see each other; it records the times it is asked."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t.clone())
        plane = t[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)
        return 3 * self.layers(torch.cat([x, plane], 1)) - x


def noise(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_measuring_changes_nothing(method: str, dtype: torch.dtype) -> None:
    net = Net().to(dtype)
    for kts in (KTS(), KTS.preset("balanced"), JUMP):
        seen = integrate(net, noise().to(dtype), method=method, steps=11, kts=kts, keep_path=2)
        blind = integrate(net, noise().to(dtype), method=method, steps=11, kts=kts, measures=())
        assert torch.equal(seen.x, blind.x)
        assert seen.nfe == blind.nfe
        assert seen.energy.dtype == seen.x.dtype == dtype
        assert not blind.columns
        assert not blind.recordings
        with pytest.raises(AttributeError, match="'energy' was not measured"):
            _ = blind.energy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kts", [KTS(), JUMP])
@pytest.mark.parametrize("speed", [1.0, 1e-4])
def test_no_call_outside_the_unit_interval(method: str, kts: KTS, speed: float) -> None:
    # At the low speed an adaptive solver would like a first step far beyond t = 1.
    net = Net()
    result = integrate(lambda x, t: speed * net(x, t), noise(), method=method, steps=7, kts=kts)
    asked = torch.stack(net.times)
    assert asked.shape == (result.nfe, 5)
    assert asked.min() == 0
    assert asked.max() <= 1
    assert asked.dtype == torch.float32


@pytest.mark.parametrize("method", FIXED)
def test_nfe_is_steps_times_stages(method: str) -> None:
    calls = 0

    def field(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    x0 = torch.ones(1, 1)
    for steps in range(1, 257):
        calls = 0
        result = integrate(field, x0, method=method, steps=steps, measures=())
        assert result.nfe == calls == steps * FIXED[method]
    measured = integrate(field, x0, method=method, steps=61)
    assert measured.nfe == 61 * FIXED[method]
    assert len(measured.power) == len(measured.times) == 61


@pytest.mark.parametrize("method", FIXED)
def test_a_row_depends_on_itself_alone(method: str) -> None:
    net, x0 = Net(), noise(8)
    whole = integrate(net, x0, method=method, steps=9, kts=KTS.preset("balanced"))
    cut = [integrate(net, part, method=method, steps=9, kts=KTS.preset("balanced")) for part in x0.split([1, 5, 2])]
    for name in ("x", "energy", "late_fraction", "final_power", "drift"):
        joined = torch.cat([getattr(part, name) for part in cut])
        torch.testing.assert_close(getattr(whole, name), joined, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", FIXED)
def test_a_sample_that_is_not_finite_leaves_the_others_alone(method: str) -> None:
    net, x0 = Net(), noise(4)
    good = integrate(net, x0, method=method, steps=9)
    x0[2, 0, 0, 0] = torch.inf
    bad = integrate(net, x0, method=method, steps=9)
    for name in ("x", "energy", "late", "drift"):
        assert torch.equal(getattr(bad, name)[[0, 1, 3]], getattr(good, name)[[0, 1, 3]])
        assert not getattr(bad, name)[2].isfinite().all()


def test_an_adaptive_method_says_where_it_stopped() -> None:
    x0 = noise(3)
    x0[1] = torch.nan
    for method in ADAPTIVE:
        with pytest.raises(IntegrationError, match=rf"{method} stopped near t = 0 .*use a fixed method"):
            integrate(Net(), x0, method=method)
    with pytest.raises(IntegrationError, match="max_num_steps exceeded"):
        integrate(Net(), noise(), method="dopri5", rtol=1e-6, atol=1e-6, max_steps=2)


@pytest.mark.parametrize("method", FIXED)
def test_memory_does_not_grow_with_the_steps(method: str) -> None:
    def held(steps: int) -> int:
        calls, size = 0, 0

        def field(x: Tensor, t: Tensor) -> Tensor:
            nonlocal calls, size
            calls += 1
            if calls == steps * FIXED[method]:
                tensors = [o for o in gc.get_objects() if type(o) is Tensor and o.numel() >= 700]
                storages = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in tensors}
                size = sum(storages.values())
            return -x

        integrate(field, torch.ones(2, 357), method=method, steps=steps)
        return size

    few, many = held(12), held(48)
    assert 0 < many == few


def test_grids() -> None:
    uniform = time_grid("uniform", 100)
    assert uniform == tuple(i / 100 for i in range(101))
    cosine = time_grid("cosine", 4)
    assert cosine == pytest.approx([0, 0.14644660940672624, 0.5, 0.8535533905932737, 1], abs=1e-15)
    for n in (1, 3, 61, 250):
        assert (time_grid("cosine", n)[0], time_grid("cosine", n)[-1]) == (0, 1)
    assert time_grid([0, 0.5, 0.75, 1], 100) == (0, 0.5, 0.75, 1)
    assert time_grid("uniform", 2, start=0.5) == (0.5, 0.75, 1)
    assert time_grid("uniform", 4, start=1, end=0) == (1, 0.75, 0.5, 0.25, 0)
    assert time_grid([0.9, 0.2, 0.1], start=0.9, end=0.1) == (0.9, 0.2, 0.1)


@pytest.mark.parametrize("times", [[0, 1.1], [0.1, 1], [0, 0.5, 0.5, 1], [1, 0], [0], [0, float("nan"), 1]])
def test_bad_lists_of_times(times: list) -> None:
    with pytest.raises(ValueError, match="must rise strictly from 0 to 1, got"):
        time_grid(times)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "rk45"}, "unknown method 'rk45'; choose from euler, midpoint, heun2, heun3, rk4, dopri5"),
        ({"grid": "log"}, "unknown grid 'log'; choose from uniform, cosine"),
        ({"steps": 0}, "steps must be a whole number of 1 to 100,000, got 0"),
        ({"steps": 2.5}, "got 2.5"),
        ({"start": 1.0}, "start and end must differ, got 1"),
        ({"end": 1.5}, r"end must lie in \[0, 1\], got 1.5"),
        ({"grid": [[0, 1]]}, "must be a list of times"),
        ({"method": "dopri5", "noise": lambda i, t, dt: 0}, "noise needs a fixed grid, and dopri5 chooses its steps"),
    ],
)
def test_bad_options_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        integrate(Net(), noise(), **wrong)


def test_a_velocity_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape of x, \(2, 3\), got \(2, 6\)"):
        integrate(lambda x, t: torch.cat([x, x], 1), torch.ones(2, 3))


def test_the_state_stays_float32_under_a_network_in_bf16() -> None:
    x0, seen = noise().bfloat16(), set()

    def field(x: Tensor, t: Tensor) -> Tensor:
        seen.add((x.dtype, t.dtype))
        return -x.bfloat16()

    result = integrate(field, x0, steps=200)
    assert seen == {(torch.float32, torch.float32)}
    assert result.x.dtype == result.energy.dtype == result.power.dtype == torch.float32


def test_the_path_is_kept_for_the_first_samples() -> None:
    for method in ("euler", "dopri5"):
        result = integrate(Net(), noise(), method=method, steps=6, keep_path=2)
        assert result.path is not None
        assert result.path_times is not None
        assert result.path.shape == (len(result.power) + 1, 2, 3, 4, 4)
        assert len(result.path_times) == len(result.path)
        assert torch.equal(result.path[0], noise()[:2])
        assert torch.equal(result.path[-1], result.x[:2])
        assert result.path_times[-1] == 1
    assert integrate(Net(), noise(), steps=2).path is None


def test_a_later_start_is_the_rest_of_the_way() -> None:
    net = Net().double()
    whole = integrate(net, noise().double(), method="rk4", steps=10, keep_path=5)
    assert whole.path is not None
    rest = integrate(net, whole.path[7], method="rk4", steps=3, start=0.7)
    torch.testing.assert_close(rest.x, whole.x, rtol=1e-10, atol=1e-10)
    assert rest.early.tolist() == [0] * 5
    adaptive = integrate(net, whole.path[7], method="dopri5", start=0.7, kts=KTS(0.1, 0.01, launch="constant"))
    assert adaptive.times[0] == 0.7


def test_drift_needs_an_evaluation_late_enough() -> None:
    assert integrate(Net(), noise(), steps=4).drift.isnan().all()
    assert integrate(Net(), noise(), steps=4, measures=[Drift(0.75)]).drift.isfinite().all()
    for tenth in range(10):  # 0.7 in float32 is less than 0.7
        assert integrate(Net(), noise(), steps=10, measures=[Drift(tenth / 10)]).drift.isfinite().all()
    straight = integrate(lambda x, t: torch.ones_like(x), noise(), steps=10)
    assert straight.drift.max() < 1e-5


def test_no_graph_is_built() -> None:
    assert not integrate(Net(), noise().requires_grad_(), steps=2).x.requires_grad
