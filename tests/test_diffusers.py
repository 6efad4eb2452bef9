"""Watched pipelines of diffusers: off is theirs bit for bit, and samples and energies are those of `integrate`."""

import copy
import csv
import importlib
import inspect
import sys
from dataclasses import replace
from functools import partial, wraps
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
import diffusers

from kinetic import KTS, KineticError, integrate
from kinetic.models.diffusers import (
    KINDS,
    KineticDPMSolverMultistepScheduler,
    KineticFlowMatchEulerScheduler,
    KineticFlowMatchHeunScheduler,
    KineticUniPCMultistepScheduler,
    unwatch,
    watch,
)
from kinetic.samples.trajectories import log_to_wandb, power_picture, to_csv
from tests.pipelines import flux, sana, sd3, wan

diffusers.logging.set_verbosity_error()
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
MULTISTEP = (KineticUniPCMultistepScheduler, KineticDPMSolverMultistepScheduler)
COLUMNS = ("energy", "field_energy", "early", "late_fraction", "final_power", "drift")
MIX = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)) / 4
NOISE = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
near = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth velocity, x [B, 3, 2, 2] and t [B]."""
    return 3 * torch.tanh(x.flatten(1) @ MIX + t[:, None]).view_as(x) - x


def made(kind, **config):
    multistep = kind in MULTISTEP or KINDS.get(kind) in MULTISTEP
    return kind(**(FLOW if multistep else {}), **config)


def loop(scheduler, x=NOISE, *, dtype=None, **steps):
    """What a pipeline does, with `field` for a network that answers in `dtype` (None: that of x)."""
    scheduler.set_timesteps(**steps)
    inverted = scheduler.config.get("invert_sigmas", False)
    for sigma, timestep in zip(scheduler.sigmas.tolist(), scheduler.timesteps, strict=False):
        t = x.new_full(x.shape[:1], sigma if inverted else 1 - sigma, dtype=torch.float32)
        v = field(x.float(), t).to(dtype or x.dtype)
        x = scheduler.step(v if inverted else -v, timestep, x, return_dict=False)[0]
    return x


def follow(scheduler, **options):
    bounds = scheduler.bounds
    given = {"kts": scheduler.kts, "average_gain": scheduler.average_gain, "grid": bounds, **options}
    return integrate(field, NOISE, start=bounds[0], end=bounds[-1], **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "mixed"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_off_is_the_stock_scheduler_bit_for_bit(kind, dtype):
    ours, theirs = made(kind), made(kind.stock)
    x, dtype = (NOISE, torch.bfloat16) if dtype == "mixed" else (NOISE.to(dtype), dtype)
    stock = loop(theirs, x, dtype=dtype, num_inference_steps=5)
    assert torch.equal(loop(ours, x, dtype=dtype, num_inference_steps=5), stock)
    assert ours.trajectory.energy.dtype == torch.float32
    assert torch.equal(ours.trajectory.energy, ours.trajectory.field_energy)
    shaped = made(kind, kts="landing")
    assert loop(shaped, x, dtype=dtype, num_inference_steps=5).dtype == stock.dtype


GRIDS = {
    "plain": ({}, {}),
    "shift": ({"shift": 3.0}, {}),
    "dynamic": ({"use_dynamic_shifting": True}, {"mu": 1.15}),
    "karras": ({"use_karras_sigmas": True}, {}),
    "exponential": ({"use_exponential_sigmas": True}, {}),
    "beta": ({"use_beta_sigmas": True}, {}),
    "own": ({}, {"sigmas": [1.0, 0.9, 0.4, 0.2]}),
    "terminal": ({"shift_terminal": 0.1}, {}),
    "inverted": ({"invert_sigmas": True, "shift": 2.0}, {}),
}


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("kts", ["off", "balanced", "landing"])
@pytest.mark.parametrize("grid", GRIDS)
def test_euler_equals_integrate_on_the_same_times(grid, kts, average):
    config, steps = GRIDS[grid]
    scheduler = KineticFlowMatchEulerScheduler(kts=kts, average_gain=average, **config)
    x = loop(scheduler, **({"num_inference_steps": 6} if "sigmas" not in steps else {}), **steps)
    exact, found = follow(scheduler), scheduler.trajectory
    near(x, exact.x)
    near(found.x, exact.x)
    for name in COLUMNS:
        near(found.columns[name], exact.columns[name])
    near(found.power, exact.power)
    near(found.times, exact.times)
    assert found.nfe == exact.nfe
    if kts != "off":
        assert (found.energy - found.field_energy).abs().min() > 1e-3
        assert (scheduler.trajectory.gain != 1).any()


@pytest.mark.parametrize("kts", ["off", "landing"])
def test_heun_is_heun_with_an_euler_step_at_the_end(kts):
    scheduler = KineticFlowMatchHeunScheduler(shift=2.0, kts=kts)
    x = loop(scheduler, num_inference_steps=6)
    *grid, before, end = scheduler.bounds
    how = {"kts": scheduler.kts, "method": "heun2", "end": before}
    first = integrate(field, NOISE, grid=[*grid, before], start=grid[0], **how)
    last = integrate(field, first.x, grid=[before, end], start=before, end=end, kts=scheduler.kts, average_gain=True)
    near(x, last.x)
    found = scheduler.trajectory
    near(found.energy, first.energy + last.energy)
    near(found.early, first.early + last.early)
    near(found.power, torch.cat([first.power, last.power]))
    assert found.nfe == 11


@pytest.mark.parametrize("kts", ["off", "balanced", "landing"])
@pytest.mark.parametrize("kind", [KineticFlowMatchHeunScheduler, *MULTISTEP], ids=lambda kind: kind.__name__)
def test_methods_of_order_two_converge_to_rk4(kind, kts):
    errors = []
    for steps in (20, 80):
        scheduler = made(kind, kts=kts)
        x = loop(scheduler, num_inference_steps=steps)
        start = scheduler.bounds[0]
        true = integrate(field, NOISE, method="rk4", steps=100, start=start, kts=KTS.preset(kts))
        found = scheduler.trajectory
        errors.append([float((x - true.x).abs().max()), float((found.energy / true.energy - 1).abs().max())])
        assert errors[-1][0] < 0.5 / steps
        assert errors[-1][1] < 0.25 / steps
    assert errors[0][0] > 6 * errors[1][0]
    assert errors[0][1] > 4.5 * errors[1][1]


def test_a_multistep_method_takes_the_mean_of_the_gain_in_its_last_step_alone():
    scheduler = made(KineticDPMSolverMultistepScheduler, solver_order=1, kts="landing")  # which is Euler's method
    x = loop(scheduler, num_inference_steps=5)
    kts, bounds = scheduler.kts, scheduler.bounds
    gains = [*map(kts.gain, bounds[:-2]), kts.mean_gain(*bounds[-2:])]
    assert scheduler.trajectory.gain.tolist() == pytest.approx(gains)
    first = integrate(field, NOISE, grid=bounds[:-1], start=bounds[0], end=bounds[-2], kts=kts)
    last = integrate(field, first.x, grid=bounds[-2:], start=bounds[-2], kts=kts, average_gain=True)
    near(x, last.x)


def test_bf16_is_multiplied_in_fp32(monkeypatch):
    seen = []
    stock = diffusers.FlowMatchEulerDiscreteScheduler.step

    @wraps(stock)
    def step(self, model_output, *args, **kwargs):
        seen.append(model_output)
        return stock(self, model_output, *args, **kwargs)

    monkeypatch.setattr(diffusers.FlowMatchEulerDiscreteScheduler, "step", step)
    scheduler = KineticFlowMatchEulerScheduler(kts=KTS(0.005, launch="constant"), average_gain=False)
    loop(scheduler, NOISE.bfloat16(), num_inference_steps=2)
    output = -field(NOISE.bfloat16().float(), torch.zeros(3)).bfloat16()
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], 1.005 * output.float())


def test_pipelines_read_the_signatures_of_theirs():
    for kind in KINDS.values():
        for name in ("set_timesteps", "step"):
            assert inspect.signature(getattr(kind, name)) == inspect.signature(getattr(kind.stock, name))
        ours, theirs = (set(inspect.signature(one.__init__).parameters) for one in (kind, kind.stock))
        assert ours - theirs == {"kts", "tau", "tau_steps", "average_gain"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_settings_are_saved_and_copies_go_their_own_way(kind, tmp_path):
    kts = KTS.preset("balanced", beta=0.03, k=2.0)
    config = {"flow_shift" if kind in MULTISTEP else "shift": 2.5}
    scheduler = kind.from_config(made(kind.stock, **config).config, kts=kts, tau_steps=0.5, average_gain=False)
    scheduler.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert (again.kts, again.tau_steps, again.average_gain) == (kts, 0.5, False)
    x = loop(scheduler, num_inference_steps=4)
    twin = copy.deepcopy(scheduler)
    assert torch.equal(loop(again, num_inference_steps=4), x)
    loop(scheduler, 2 * NOISE, num_inference_steps=4)
    assert torch.equal(twin.trajectory.energy, again.trajectory.energy)
    assert not torch.equal(twin.trajectory.energy, scheduler.trajectory.energy)
    measured = KTS(gains=((0.2, 1.0), (0.8, 0.6)))
    kind.from_config(scheduler.config, kts=measured).save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path).kts == measured
    other = kind.from_config(scheduler.config, kts="landing", tau=0.7, tau_steps=None)
    assert (other.kts, other.config[next(iter(config))]) == (KTS.preset("landing", tau=0.7), 2.5)


def test_tau_by_steps_lies_where_that_many_steps_have_been_taken():
    scheduler = KineticFlowMatchEulerScheduler(shift=3.0, kts="balanced", tau_steps=0.75)
    loop(scheduler, num_inference_steps=8)
    assert scheduler.kts.tau == scheduler.bounds[6]
    assert "8 steps over t in [0, 1]: 6 begin before τ = 0.662, 2 from it on" in scheduler.coverage
    loop(scheduler, num_inference_steps=4)  # another call, another grid
    assert scheduler.kts.tau == scheduler.bounds[3]
    near(scheduler.trajectory.energy, follow(scheduler).energy)
    by_time = KineticFlowMatchEulerScheduler(kts="balanced", tau=0.4)
    loop(by_time, sigmas=[1.0, 0.7, 0.5, 0.1])
    assert by_time.bounds == [0.0, 0.3, 0.5, 0.9, 1.0]  # as they were meant, whatever float32 makes of σ
    assert ": 2 begin before τ = 0.4, the last of them past it, 2 from it on" in by_time.coverage
    flux_like = KineticFlowMatchEulerScheduler(use_dynamic_shifting=True)
    loop(flux_like, sigmas=np.linspace(1, 1 / 28, 28), mu=1.15)
    assert flux_like.coverage.endswith("4 from it on")


@pytest.mark.parametrize(("average", "tau", "said"), [(False, 0.9, 1), (False, 0.5, 0), (True, 0.9, 0)])
def test_a_landing_that_no_step_sees_is_said(average, tau, said, caplog):
    scheduler = KineticFlowMatchEulerScheduler(kts="landing", tau=tau, average_gain=average)
    sigmas = [1.0, 0.75, 0.5, 0.25]
    x = loop(scheduler, sigmas=sigmas)
    assert len(caplog.records) == said
    assert all("the landing does nothing, 4 steps over" in record.getMessage() for record in caplog.records)
    assert torch.equal(x, loop(KineticFlowMatchEulerScheduler(), sigmas=sigmas)) == bool(said)


FAULTS = {
    "a jump": (lambda: KineticFlowMatchEulerScheduler(stochastic_sampling=True), "stochastic_sampling=True jumps"),
    "epsilon": (lambda: KineticUniPCMultistepScheduler(), "prediction_type='epsilon' is that of no flow model"),
    "sde": (
        lambda: made(KineticDPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
        "algorithm_type='sde-dpmsolver\\+\\+' follows no ODE",
    ),
    "thresholding": (lambda: made(KineticUniPCMultistepScheduler, thresholding=True), "thresholding=True moves"),
    "tau twice": (lambda: KineticFlowMatchEulerScheduler(tau=0.5, tau_steps=0.5), "and None for the other"),
    "tau_steps": (lambda: KineticFlowMatchEulerScheduler(tau_steps=1.0), "strictly between 0 and 1, got 1.0"),
    "preset": (lambda: KineticFlowMatchEulerScheduler(kts="soft"), "unknown KTS preset 'soft'"),
    "no preset": (lambda: KineticFlowMatchEulerScheduler(kts=3), "kts is the name of a preset, .* got 3"),
    "a time of its own": (lambda: one_step(KineticFlowMatchEulerScheduler(), 5.5), "5.5 is none of"),
    "nothing yet": (lambda: KineticFlowMatchEulerScheduler().trajectory, "nothing has been drawn yet"),
    "no pipeline": (lambda: watch(torch.nn.Linear(1, 1)), "a Linear without one"),
    "no flow": (
        lambda: watch(SimpleNamespace(scheduler=diffusers.DDIMScheduler())),
        "got DDIMScheduler",
    ),
    "epsilon pipeline": (
        lambda: watch(SimpleNamespace(scheduler=diffusers.DPMSolverMultistepScheduler())),
        "prediction_type='epsilon' is that of no flow model",
    ),
    "no flow's sigmas": (
        lambda: loop(made(KineticDPMSolverMultistepScheduler, use_karras_sigmas=True), num_inference_steps=4),
        "sigmas of a flow fall within",
    ),
    "tokens": (
        lambda: one_step(KineticFlowMatchEulerScheduler(), per_token_timesteps=torch.ones(3, 2)),
        "per_token_timesteps",
    ),
    "churn": (lambda: one_step(KineticFlowMatchHeunScheduler(), s_churn=0.5), "s_churn=0.5 adds noise"),
}


def one_step(scheduler, timestep=None, **options):
    scheduler.set_timesteps(4)
    scheduler.step(NOISE, scheduler.timesteps[0] if timestep is None else timestep, NOISE, **options)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_flow_is_refused_in_one_line(fault):
    act, words = FAULTS[fault]
    with pytest.raises(KineticError, match=words) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "kinetic.models.diffusers")
    with pytest.raises(ImportError, match=r"needs the extra .*: uv sync --extra diffusers"):
        importlib.import_module("kinetic.models.diffusers")


@pytest.mark.parametrize("kts", ["off", "balanced", "landing"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("make", [sd3, flux], ids=["sd3", "flux"])
def test_euler_pipelines_equal_integrate(make, guidance, kts):
    case = make()
    stock = case.draw(8, guidance)
    scheduler = watch(case.pipe, kts=kts)
    x = case.draw(8, guidance)
    assert scheduler is case.pipe.scheduler
    assert torch.equal(x, stock) == (kts == "off")
    options = {"grid": scheduler.bounds, "kts": KTS.preset(kts), "average_gain": True}
    exact = integrate(case.velocity(guidance), case.noise, **options)
    near(x, exact.x)
    for name in COLUMNS:
        near(scheduler.trajectory.columns[name], exact.columns[name])
    unwatch(case.pipe)
    assert type(case.pipe.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    assert torch.equal(case.draw(8, guidance), stock)


@pytest.mark.parametrize("make", [wan, sana], ids=["wan", "sana"])
def test_multistep_pipelines_come_near_heun_on_many_steps(make):
    case = make()
    stock = case.draw(12, 4.0)
    for kts in ("off", "landing"):
        scheduler = watch(case.pipe, kts=kts)
        x = case.draw(12, 4.0)
        assert torch.equal(x, stock) == (kts == "off")
        true = integrate(case.velocity(4.0), case.noise, method="heun2", steps=60, kts=KTS.preset(kts))
        found = scheduler.trajectory
        torch.testing.assert_close(found.energy, true.energy, rtol=0.06, atol=0)
        torch.testing.assert_close(found.late_fraction, true.late_fraction, rtol=0.1, atol=0)
        assert (found.energy >= 0.5 * (x - case.noise).flatten(1).square().sum(1) * 0.999).all()


def test_a_saved_pipeline_opens_with_its_settings(tmp_path):
    case = sd3()
    watch(case.pipe, kts="landing", tau=0.5)
    case.pipe.save_pretrained(tmp_path)
    absent = {name: None for name, part in case.pipe.components.items() if part is None}
    again = replace(case, pipe=diffusers.DiffusionPipeline.from_pretrained(tmp_path, **absent))
    again.pipe.set_progress_bar_config(disable=True)
    assert again.pipe.scheduler.kts == KTS.preset("landing", tau=0.5)
    assert torch.equal(again.draw(3, 1.0), case.draw(3, 1.0))


def test_img2img_says_the_interval_that_it_covers():
    case = sd3()
    watch(case.pipe, kts="balanced")
    pipe = diffusers.StableDiffusion3Img2ImgPipeline.from_pipe(case.pipe)
    pipe.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 10, "output_type": "latent", "guidance_scale": 1.0, "height": 8, "width": 8}
    for strength, start in ((1.0, 0.0), (0.6, 0.2096)):
        pipe(image=torch.rand(2, 3, 8, 8), strength=strength, **given, **case.prompt)
        found = pipe.scheduler.trajectory
        assert len(found.times) == 10 * strength
        assert found.times[0] == pytest.approx(start, abs=1e-3)
    assert pipe.scheduler.coverage.startswith("6 steps over t in [0.21, 1]: ")


def test_heun_begins_anew_although_img2img_has_set_its_index():
    scheduler = KineticFlowMatchHeunScheduler()
    for _ in range(2):
        scheduler.set_timesteps(4)
        scheduler.scale_noise(NOISE, scheduler.timesteps[1], NOISE)  # finds the index of the first step
        scheduler.step(NOISE, scheduler.timesteps[1], NOISE)
        assert len(scheduler.trajectory.times) == 1


def test_the_trajectory_can_be_read_on_the_way():
    case, seen = sd3(), []
    watch(case.pipe)

    def note(pipe, index, timestep, tensors):
        seen.append(pipe.scheduler.trajectory)
        return tensors

    case.draw(4, 1.0, callback_on_step_end=note)
    assert [len(one.times) for one in seen] == [1, 2, 3, 4]
    assert all((a.energy < b.energy).all() for a, b in pairwise(seen))
    assert seen[0].drift.isnan().all()
    assert torch.equal(seen[-1].energy, case.pipe.scheduler.trajectory.energy)


def test_a_csv_a_picture_and_a_log_are_one_call_each(tmp_path):
    scheduler = KineticFlowMatchEulerScheduler(kts="landing")
    loop(scheduler, num_inference_steps=4)
    found, logged = scheduler.trajectory, []
    rows = list(csv.DictReader(to_csv(found, tmp_path / "e.csv", seeds=[7, 5, 2]).open()))
    assert [row["seed"] for row in rows] == ["7", "5", "2"]
    assert [float(row["energy"]) for row in rows] == pytest.approx(found.energy.tolist(), rel=1e-6)
    assert Image.open(power_picture(found, tmp_path / "p.png", tau=scheduler.kts.tau)).width > 100
    log_to_wandb(found, SimpleNamespace(log=logged.append))
    assert logged[0]["kpe/mean"] == pytest.approx(float(found.energy.mean()))
    assert sum(logged[0]["kpe/energy"].histogram) == 3
    assert logged[0]["kpe/power_profile"].image.width > 100
    with pytest.raises(KineticError, match=r"wandb.init\(\) first"):
        log_to_wandb(found)
    with pytest.raises(KineticError, match="one for each of 3 samples, got 1"):
        to_csv(found, tmp_path / "e.csv", seeds=[1])
    assert np.isfinite(found.power.numpy()).all()
