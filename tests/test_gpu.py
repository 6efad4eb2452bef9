"""The same on a real GPU; skipped where there is none (`test_devices.py` tries most of it on fake tensors)."""

import copy

import pytest
import torch

from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.integration import METHODS, integrate
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS
from kinetic.nn import UNet
from kinetic.tensors import seeded_noise
from kinetic.training.module import FlowMatching
from tests.conftest import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def net() -> UNet:
    torch.manual_seed(0)
    made = UNet(**TINY["network"]["init_args"], num_classes=3)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made.eval()


@pytest.fixture(autouse=True)
def no_tf32():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("method", METHODS)
def test_integrate_gives_what_a_cpu_gives(method: str, net: UNet) -> None:
    x0, kts = seeded_noise(range(4), (1, 8, 8)), KTS.preset("balanced")
    found = [
        integrate(lambda x, t, at=at: at(x, t), x0.to(device), method=method, steps=8, kts=kts)
        for device, at in (("cpu", net), ("cuda", copy.deepcopy(net).cuda()))
    ]
    torch.testing.assert_close(found[1].x.cpu(), found[0].x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1].energy.cpu(), found[0].energy, rtol=1e-3, atol=1e-3)


def test_draw_starts_from_the_same_noise_and_does_not_wait_between_steps(net: UNet) -> None:
    options = {"labels": [0, 1, 2, 0], "sampler": Sampler(steps=6, guidance=2.0, kts=KTS.preset("landing"))}
    wanted = draw(net, range(4), **options)
    on_gpu = net.cuda()
    found = draw(on_gpu, range(4), device="cuda", **options)
    torch.testing.assert_close(found.x.cpu(), wanted.x, rtol=1e-3, atol=1e-3)
    x0 = seeded_noise(range(4), (1, 8, 8)).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        integrate(lambda x, t: on_gpu(x, t), x0, steps=6, kts=KTS.preset("landing"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_training_step_that_is_not_logged_does_not_wait() -> None:
    module = FlowMatching(TINY["network"], ema_decay=0.9).cuda()
    batch = {"x": torch.zeros(4, 1, 8, 8, device="cuda"), "labels": None, "ids": list("abcd")}
    t = torch.rand(4, device="cuda")
    loss = module.errors(module.net, torch.randn_like(batch["x"]), batch["x"], t, None).mean()  # warms up
    loss.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        module.losses.add(0, module.errors(module.net, batch["x"], batch["x"], t, None).mean(), t, batch["ids"])
        module.ema.update(module.net)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert module.losses.take_bad() is None


def test_the_closed_form_field_gives_what_a_cpu_gives() -> None:
    images, x = seeded_noise(range(50), (1, 8, 8)), seeded_noise(range(100, 104), (1, 8, 8))
    for t in (0.1, 0.5, 0.9, 0.99):
        wanted = EmpiricalVelocity(images)(x, torch.tensor(t))
        found = EmpiricalVelocity(images.cuda())(x.cuda(), torch.tensor(t).cuda())
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-3)


def test_the_commands_run_on_it(tiny, capsys: pytest.CaptureFixture) -> None:
    callbacks = [{"class_path": f"kinetic.callbacks.{name}"} for name in ("KPECallback", "MemorizationCallback")]
    path = tiny(trainer={"accelerator": "gpu", "max_steps": 4, "val_check_interval": 2, "callbacks": callbacks})
    train(["--config", str(path), "--run.name", "run"])
    sample(["--num", "4", "--steps", "4", "--accelerator", "gpu"])
    sample(["--index", "1", "--steps", "4", "--accelerator", "gpu"])
    assert "F_mem" in capsys.readouterr().out
