"""Every tensor on its device, and no host waiting for a GPU: tried without one, on fake CUDA tensors.

Under `FakeTensorMode` CUDA tensors have shapes, types and devices but no values: one that meets another device raises,
and so does every read of a value by the host, which on a GPU would be a synchronisation. What cannot be faked, and why:

- backward passes, since autograd's engine asks the CUDA driver for a context, which is not there;
- `module.to("cuda")`, since fake parameters cannot be exchanged: modules are built on the device;
- random numbers of a generator on the GPU, of which there can be none: the generator is a stand-in;
- the assignment of the OT coupling is solved on the CPU by scipy, so the host has to read the costs: here only what is
  around it, its costs and the reordering, is tried;
- the closed-form field recomputes as many pairs as need it and the neighbour search proves each query, so both ask the
  device how many there are, and indexing a training set hashes its images: their parts between those reads are tried;
- drawing starts from noise of CPU generators, as that of every step is, and adaptive methods choose their steps on the
  host, by design; how much noise a step takes is read off the path on the CPU before the first.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kinetic.flow import posterior, stochastic
from kinetic.flow.field import Field
from kinetic.flow.guidance import guided
from kinetic.flow.integration import integrate
from kinetic.flow.paths import path
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS, shaped
from kinetic.flow.solvers import FIXED
from kinetic.flow.stochastic import Diffusion
from kinetic.flow.straightness import Straightness
from kinetic.images import ImageSet
from kinetic.memorization.detectors import renoise
from kinetic.metrics import neighbors
from kinetic.metrics.reference import ReferenceIndex
from kinetic.nn import MLP, DiT, UNet
from kinetic.tensors import exact_products
from kinetic.training import couplings
from kinetic.training.averaging import AveragedNetwork
from kinetic.training.module import FlowMatching
from kinetic.training.times import KINDS, TrainingTimes, draw_times, drop_labels

CUDA = torch.device("cuda")
SMALL = {"image_size": 8, "in_channels": 1, "model_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2]}
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": lambda classes: UNet(**SMALL, attention_resolutions=[4], num_head_channels=32, num_classes=classes),
    "unet shifted": lambda classes: UNet(
        **SMALL,
        attention_resolutions=[4],
        num_heads=2,
        num_classes=classes,
        resblock_updown=True,
        use_scale_shift_norm=True,
    ),
    "dit": lambda classes: DiT(
        input_size=8, in_channels=1, depth=2, hidden_size=32, num_heads=2, num_classes=classes, qk_norm=True
    ),
    "mlp": lambda classes: MLP(dim=2, width=16, num_classes=classes),
}


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    """Fake CUDA tensors for a while."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def built(name: str, classes: int | None = 3) -> nn.Module:
    with CUDA:
        return NETWORKS[name](classes)


def batch_for(net: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, times and labels on the GPU."""
    shape = Field.of(net).shape
    assert shape is not None
    return (
        torch.empty(4, *shape, device=CUDA),
        torch.empty(4, device=CUDA),
        torch.zeros(4, dtype=torch.int64, device=CUDA),
    )


def test_the_mode_finds_what_it_is_meant_to_find(fake) -> None:
    x = torch.ones(3, device=CUDA)
    with pytest.raises(RuntimeError, match="device"):
        x + torch.ones(3)
    with pytest.raises(DataDependentOutputException):
        float(x.sum())
    assert (x * torch.tensor(2.0)).device.type == "cuda"  # a number on the host may meet a GPU


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_runs_where_it_lies(fake, name, classes) -> None:
    net = built(name, classes)
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"cuda"}
    x, t, labels = batch_for(net)
    for given in (None, labels) if classes else (None,):
        v = net(x, t, given)
        assert (v.device.type, v.shape, v.dtype) == ("cuda", x.shape, x.dtype)
    with pytest.raises(RuntimeError, match="device"):
        net(x, t.cpu(), None)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("kts", [KTS.preset("off"), KTS(0.1, 0.01, launch="constant")], ids=["off", "shaped"])
@pytest.mark.parametrize("method", FIXED)
def test_no_step_of_a_fixed_method_waits(fake, method, kts, guidance) -> None:
    net = built("unet")
    x, _, labels = batch_for(net)
    with torch.no_grad():
        velocity = guided(net, labels, guidance)
        found = integrate(velocity, x, method=method, steps=5, kts=kts, keep_path=2)
    columns = {**found.columns, "x": found.x, "power": found.power, "path": found.path}
    assert {name: value.device.type for name, value in columns.items()} == dict.fromkeys(columns, "cuda")
    assert found.times.device.type == "cpu"


@pytest.mark.parametrize("noise", ["constant:1", "linear:1", "churn:1:0.2-0.7"])
@pytest.mark.parametrize("method", ["euler", "heun2"])
@pytest.mark.parametrize("name", ["linear", "gvp", "vp"])
def test_no_step_with_noise_waits(fake, monkeypatch, name, method, noise) -> None:
    monkeypatch.setattr(stochastic, "_noise_left", lambda times, path: [1 - t for t in times])
    field = Field(lambda x, t, labels: -x, shape=(3,), path=path(name))
    sampler = Sampler(method, steps=6, noise=Diffusion.parse(noise), kts=KTS.preset("balanced"))
    found = draw(field, range(4), sampler=sampler, device=CUDA, keep_path=2)
    columns = {**found.columns, "x": found.x, "power": found.power, "path": found.path}
    assert {name: value.device.type for name, value in columns.items()} == dict.fromkeys(columns, "cuda")


def test_noise_hooks_and_the_way_back_do_not_wait_either(fake) -> None:
    x = torch.empty(4, 2, device=CUDA)
    seen: list[int] = []
    found = integrate(
        shaped(lambda x, t: -x, KTS.preset("balanced")),
        x,
        steps=5,
        start=1.0,
        end=0.25,
        measures=[Straightness()],
        noise=lambda i, t, dt: torch.randn_like(x),
        on_step=lambda i, t, x: seen.append(i),
    )
    assert found.straightness.device.type == "cuda"
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("prediction", ["velocity", "x1", "x0", "score"])
@pytest.mark.parametrize("name", ["linear", "gvp", "vp"])
def test_paths_and_fields_stay_on_the_device(fake, name, prediction) -> None:
    x0, x1, t = (torch.empty(*shape, device=CUDA) for shape in ((4, 1, 2, 2), (4, 1, 2, 2), (4,)))
    sample = path(name).sample(x0, x1, t)
    assert {value.device.type for value in (sample.xt, sample.t, sample.target)} == {"cuda"}
    field = Field(lambda x, t, labels: x, prediction=prediction, time="data_to_noise", path=path(name))
    assert field(x0, t).device.type == "cuda"


@pytest.mark.parametrize("name", NETWORKS)
def test_draw_and_renoise_need_the_host_for_noise_alone(fake, name) -> None:
    net = built(name)
    sampler = Sampler(steps=3, guidance=2.0, kts=KTS.preset("balanced"))
    found = draw(net, range(4), labels=[0, 1, 2, 3], sampler=sampler, device=CUDA, precision="bf16")
    assert {value.device.type for value in (found.x, *found.columns.values())} == {"cuda"}
    response = renoise(net, found.x, range(4), labels=2, sampler=sampler)
    assert response.device.type == "cuda"


@pytest.mark.parametrize("kind", KINDS)
def test_times_and_label_dropout_follow_their_generator(fake, kind) -> None:
    rng = SimpleGenerator()
    t = draw_times(8, rng, TrainingTimes(kind))
    labels = drop_labels(torch.zeros(8, dtype=torch.int64, device=CUDA), 0.5, 3, rng)
    assert (t.device.type, labels.device.type) == ("cuda", "cuda")


class SimpleGenerator:
    """Stands for a generator on the GPU, of which there can be none without one; see `generators`."""

    device = CUDA

    def manual_seed(self, seed: int) -> "SimpleGenerator":
        """Take a seed."""
        return self


@pytest.fixture(autouse=True)
def generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let random tensors be asked of a generator that stands for one on the GPU."""

    def without_stand_in(original: Callable) -> Callable:
        def drawn(*args, generator=None, **options):
            given = {} if isinstance(generator, SimpleGenerator) or generator is None else {"generator": generator}
            return original(*args, **given, **options)

        return drawn

    for name in ("rand", "randn", "randperm"):
        monkeypatch.setattr(torch, name, without_stand_in(getattr(torch, name)))
    original = torch.Generator

    def made(device=None):
        return SimpleGenerator() if device is not None and torch.device(device).type == "cuda" else original()

    monkeypatch.setattr(torch, "Generator", made)


@pytest.fixture
def quiet_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlowMatching]:
    """A training module on the GPU without a trainer's machinery."""

    class Module(FlowMatching):
        @property
        def trainer(self):
            return self.__dict__["stand_in"]

        def log(self, name, value, **options):
            self.__dict__["told"][name] = value

    def make(*, step: int = 7, **options) -> FlowMatching:
        with CUDA:
            module = Module(NETWORKS["unet"](3), label_dropout=0.1, ema_decay=None, **options)
        assert module.device.type == "cuda"
        module.__dict__["told"] = {}
        module.__dict__["stand_in"] = SimpleNamespace(
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=step)),
            global_step=step,
            log_every_n_steps=50,
            global_rank=0,
            optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
        )
        return module

    return make


@pytest.mark.parametrize(
    "options", [{}, {"path": "gvp", "times": "stratified"}, {"path": "vp", "times": "logit_normal"}], ids=str
)
def test_a_training_step_that_is_not_logged_does_not_wait(fake, quiet_module, options) -> None:
    module = quiet_module(**options)
    x, _, labels = batch_for(module.net)
    loss = module.training_step({"x": x, "labels": labels, "ids": list("abcd")}, 0)
    assert loss.device.type == "cuda"
    assert "train/loss" in module.__dict__["told"]
    module.on_before_optimizer_step(None)


def test_a_step_that_is_logged_looks_at_the_loss(fake, quiet_module) -> None:
    module = quiet_module(step=49)
    x, _, labels = batch_for(module.net)
    with pytest.raises(DataDependentOutputException):
        module.training_step({"x": x, "labels": labels, "ids": list("abcd")}, 0)


def test_averaging_does_not_wait(fake) -> None:
    with CUDA:
        net = NETWORKS["unet"](None)
        averaged = AveragedNetwork(net, decay=0.9)
    for _ in range(3):
        averaged.update(net)
    assert {tensor.device.type for tensor in averaged.state_dict().values()} == {"cuda"}


def test_the_ot_coupling_around_its_assignment(fake, monkeypatch) -> None:
    x0, x1 = torch.empty(4, 3, device=CUDA), torch.empty(4, 3, device=CUDA)
    assert couplings._centred(x0).device.type == "cuda"
    assert couplings._reorder("x", x1, torch.arange(4), [0, 1, 2, 3]).device.type == "cuda"
    assert couplings.pair(x0, {"x": x1}, coupling="independent")["x"] is x1


@pytest.mark.parametrize("close", [False, True])
def test_no_chunk_of_the_closed_form_field_waits(monkeypatch, close) -> None:
    """Kills: a count of pairs, a look at the maximum or at the class of an image, between two chunks on a GPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, t = torch.empty(3, 4, device=CUDA), torch.empty(3, device=CUDA, dtype=torch.float64)
        monkeypatch.setattr(posterior, "bool", lambda value: close, raising=False)  # read once, before the first chunk
        mean = posterior.PosteriorMean(x, t, largest=1.0, total=6)
        monkeypatch.undo()
        images, norms = torch.empty(6, 4, device=CUDA), torch.empty(6, device=CUDA, dtype=torch.float64)
        with exact_products(CUDA):
            for outside in (None, torch.empty(3, 6, dtype=torch.bool, device=CUDA)):
                mean.add(images, norms, outside)
        assert (mean.close, mean.waits) == (close, False)
        assert mean.shift().device.type == "cuda"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("flip", [False, True])
def test_no_chunk_of_the_neighbour_search_waits(fake, flip, dtype) -> None:
    """Kills: a read of a device value, or a copy to the host, in the pass over references that lie on the GPU."""
    count, shape = 40, torch.Size([1, 2, 2])
    images = torch.empty(count, *shape, device=CUDA, dtype=dtype)
    numbers = torch.zeros(count, dtype=torch.int64, device=CUDA)
    index = ReferenceIndex(
        source=ImageSet.of(images),
        shape=shape,
        flip=flip,
        device=CUDA,
        ids=numbers,
        groups=numbers,
        half_norms=torch.empty(count, device=CUDA),
        center=torch.empty(4, device=CUDA),
        largest=1.0,
        low=-1.0,
        high=1.0,
        distinct=1,
        duplicates=0,
    )
    queries = neighbors._matching(torch.empty(5, *shape), index)
    assert queries.device.type == "cuda"
    scores, rows = neighbors._candidates(queries - index.center, index, 8, 7, 3)
    assert (scores.device.type, rows.device.type) == ("cuda", "cuda")
