"""What all three networks promise."""

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kinetic.nn import MLP, DiT, UNet

BUILD: dict[str, Callable[[int | None], nn.Module]] = {
    "unet": lambda classes: UNet(
        image_size=16,
        in_channels=3,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_resolutions=(8,),
        num_classes=classes,
    ),
    "unet8": lambda classes: UNet(
        image_size=8,
        in_channels=1,
        model_channels=8,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_resolutions=(4,),
        num_head_channels=8,
        use_scale_shift_norm=True,
        resblock_updown=True,
        dropout=0.1,
        num_classes=classes,
    ),
    "dit": lambda classes: DiT(depth=2, hidden_size=32, num_heads=4, input_size=8, num_classes=classes),
    "dit_sigma": lambda classes: DiT(
        depth=2, hidden_size=32, num_heads=4, input_size=8, num_classes=classes, learn_sigma=True, qk_norm=True
    ),
    "mlp": lambda classes: MLP(dim=3, width=16, num_classes=classes),
}
NETS = pytest.mark.parametrize("name", BUILD)
IMAGE_NETS = pytest.mark.parametrize("name", [name for name in BUILD if name != "mlp"])


def build(name: str, classes: int | None = None, *, seed: int = 0) -> nn.Module:
    """Build a network whose every weight matters: those that start at zero are made small and random."""
    torch.manual_seed(seed)
    net = BUILD[name](classes)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return net.eval()


def batch(net: nn.Module, rows: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, *net.sample_shape, generator=generator), torch.rand(rows, generator=generator)


@NETS
@pytest.mark.parametrize("classes", [None, 5])
def test_output_has_the_shape_of_the_input(name: str, classes: int | None) -> None:
    net = build(name, classes)
    x, t = batch(net)
    assert net(x, t).shape == x.shape
    assert net.num_classes == classes
    assert net(x[:1], t[:1]).shape == x[:1].shape


@NETS
@pytest.mark.parametrize("classes", [None, 5])
@pytest.mark.parametrize("fresh", [True, False])
def test_every_parameter_gets_a_gradient(name: str, classes: int | None, fresh: bool) -> None:
    net = BUILD[name](classes) if fresh else build(name, classes)
    x, t = batch(net)
    labels = None if classes is None else torch.tensor([0, 4, 5])
    net.train()(x, t, labels).sub(x).square().mean().backward()
    assert [key for key, value in net.named_parameters() if value.requires_grad and value.grad is None] == []


@NETS
def test_unconditional_network_has_no_label_table(name: str) -> None:
    rows = [value.shape for value in build(name, 997).state_dict().values() if value.shape[:1] == (998,)]
    assert len(rows) == 1
    assert len(build(name, 997).state_dict()) == len(build(name).state_dict()) + 1


@NETS
def test_no_labels_means_the_null_label(name: str) -> None:
    net = build(name, 5)
    x, t = batch(net)
    assert torch.equal(net(x, t), net(x, t, torch.full((3,), 5)))
    assert not torch.allclose(net(x, t), net(x, t, torch.full((3,), 4)))


@NETS
def test_rows_depend_on_their_own_time_and_label_only(name: str) -> None:
    net = build(name, 5)
    x, t = batch(net)
    labels = torch.tensor([0, 1, 2])
    out = net(x, t, labels)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], labels[i : i + 1])[0], out[i], rtol=1e-4, atol=1e-5)
    later = net(x, torch.tensor([t[0], t[1], 1 - t[2]]), labels)
    assert torch.allclose(later[:2], out[:2], atol=1e-6)
    assert not torch.allclose(later[2], out[2], atol=1e-4)


@NETS
def test_one_time_serves_the_whole_batch(name: str) -> None:
    net = build(name)
    x, _ = batch(net)
    assert torch.equal(net(x, torch.tensor(0.3)), net(x, torch.full((3,), 0.3)))


@NETS
def test_bf16_autocast_stays_near_float32_and_returns_it(name: str) -> None:
    net = build(name, 5)
    x, t = batch(net)
    exact = net(x, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x, t)
        out.square().mean().backward()
    assert out.dtype == torch.float32
    assert (out - exact).norm() < 0.05 * exact.norm()


@NETS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_take_and_return_float32(name: str, dtype: torch.dtype) -> None:
    net = build(name, 5)
    x, t = batch(net)
    exact = net(x, t)
    out = net.to(dtype)(x, t)
    assert out.dtype == torch.float32
    assert (out - exact).norm() < (0.05 if dtype == torch.bfloat16 else 1e-5) * exact.norm()


@IMAGE_NETS
def test_channels_last_input_and_weights_give_the_same_result(name: str) -> None:
    net = build(name)
    x, t = batch(net)
    expected = net(x, t)
    again = net(x.contiguous(memory_format=torch.channels_last), t)
    assert again.is_contiguous()
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x, t), expected, rtol=1e-4, atol=1e-5)


@NETS
def test_compiled_in_one_graph_with_clean_keys(name: str) -> None:
    net = build(name, 5)
    x, t = batch(net)
    labels = torch.tensor([0, 4, 5])
    expected, keys = net(x, t, labels), list(net.state_dict())
    torch._dynamo.reset()
    net.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(net(x, t, labels), expected, rtol=1e-4, atol=1e-5)
    net(x, t, labels).square().mean().backward()
    assert list(net.state_dict()) == keys


@NETS
def test_state_dict_survives_a_round_trip(name: str) -> None:
    net, other = build(name, 5), build(name, 5, seed=7)
    x, t = batch(net)
    assert not torch.equal(net(x, t), other(x, t))
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    assert torch.equal(net(x, t), other(x, t))


@NETS
@pytest.mark.parametrize("wrong", [-1, 6, 1000])
def test_label_outside_the_range_is_refused(name: str, wrong: int) -> None:
    net = build(name, 5)
    x, t = batch(net)
    with pytest.raises(ValueError, match=rf"label {wrong} is outside the range 0 to 5"):
        net(x, t, torch.tensor([0, wrong, 5]))


@NETS
def test_bad_arguments_are_refused_in_one_line(name: str) -> None:
    net = build(name, 5)
    x, t = batch(net)
    with pytest.raises(ValueError, match=r"labels have shape \(2,\) but the batch has 3 rows"):
        net(x, t, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels must be integers"):
        net(x, t, torch.rand(3))
    with pytest.raises(ValueError, match=r"t has shape \(2,\) but the batch has 3 rows"):
        net(x, t[:2])
    with pytest.raises(ValueError, match=r"input has shape .* but the network takes \[B, "):
        net(torch.cat([x, x], dim=1), t)
    with pytest.raises(ValueError, match="labels were given to a network without classes"):
        build(name)(x, t, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        build(name, 0)


def test_timm_is_imported_for_dit_only() -> None:
    assert DiT.__module__ == "kinetic.nn.dit"
    code = "import sys, kinetic.nn; assert kinetic.nn.UNet and 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_unknown_name_is_an_attribute_error() -> None:
    import kinetic.nn

    with pytest.raises(AttributeError, match="VAE"):
        kinetic.nn.VAE  # noqa: B018
