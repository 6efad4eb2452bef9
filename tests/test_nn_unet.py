import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinetic.nn import UNet
from kinetic.nn.blocks import AttentionBlock, ResBlock, group_norm

PLAIN: dict[str, Any] = {"attention_resolutions": (), "num_head_channels": 32}


def fingerprint(net: nn.Module) -> tuple[int, int, str]:
    """Numbers, tensors, and a hash of the names and shapes of a network's state."""
    state = net.state_dict()
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return sum(value.numel() for value in state.values()), len(state), digest


def fill(net: nn.Module) -> None:
    """Give every parameter values that depend on its name and place alone."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(net.named_parameters())):
            wave = torch.arange(parameter.numel(), dtype=torch.float64).mul(0.7).add(i).sin().view(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(wave * (3 / parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_(wave * 0.1 + name.endswith("weight"))


def test_cifar10_network_of_torchcfm() -> None:
    with torch.device("meta"):
        net = UNet(dropout=0.1)
    assert fingerprint(net) == (35_746_307, 304, "643b0572a1fdc4f0")
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert shapes["time_embed.0.weight"] == (512, 128)
    assert shapes["input_blocks.0.0.weight"] == (128, 3, 3, 3)
    assert shapes["input_blocks.3.0.op.weight"] == (128, 128, 3, 3)
    assert shapes["input_blocks.4.1.qkv.weight"] == (768, 256, 1)
    assert shapes["middle_block.1.proj_out.weight"] == (256, 256, 1)
    assert shapes["output_blocks.2.1.conv.weight"] == (256, 256, 3, 3)
    assert shapes["out.2.weight"] == (3, 128, 3, 3)


def test_class_conditional_network_of_adm() -> None:
    with torch.device("meta"):
        net = UNet(
            image_size=64,
            out_channels=6,
            model_channels=192,
            num_res_blocks=3,
            channel_mult=(1, 2, 3, 4),
            attention_resolutions=(32, 16, 8),
            num_classes=999,
            use_scale_shift_norm=True,
            resblock_updown=True,
        )
    assert fingerprint(net) == (295_904_454, 541, "b879ba9ed4fe94bb")
    assert net.state_dict()["label_emb.weight"].shape == (1000, 768)


# Outputs of torchcfm 1.0.7's network with the weights of `fill`: every n-th number, and the norm of them all.
PUBLIC: dict[str, tuple[dict[str, Any], Tensor | None, list[float], float]] = {
    "plain": (
        {
            "image_size": 8,
            "model_channels": 32,
            "channel_mult": (1, 2),
            "attention_resolutions": (4,),
            "num_head_channels": 32,
        },
        None,
        [0.4954, -0.57986, -1.47334, 0.16275, -0.52788, -1.05144],
        22.8157,
    ),
    "film": (
        {
            "image_size": 16,
            "in_channels": 1,
            "model_channels": 32,
            "num_res_blocks": 1,
            "channel_mult": (1, 2, 2),
            "attention_resolutions": (8, 4),
            "num_head_channels": 16,
            "num_classes": 5,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
            "use_new_attention_order": True,
        },
        torch.tensor([1, 3]),
        [0.01661, -0.10815, -0.53092, -0.45878, 0.56832, 0.09445],
        34.8349,
    ),
    "pooled": (
        {
            "image_size": 8,
            "model_channels": 32,
            "num_res_blocks": 1,
            "channel_mult": (1, 2, 1),
            "attention_resolutions": (8,),
            "num_heads": 4,
            "num_head_channels": None,
            "conv_resample": False,
        },
        None,
        [-0.04794, 0.64646, 1.13939, 0.02882, 0.73884, 1.22129],
        29.0705,
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_outputs_are_those_of_the_public_network(name: str) -> None:
    options, labels, values, norm = PUBLIC[name]
    net = UNet(**options).eval()
    fill(net)
    shape = (2, *net.sample_shape)
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).mul(1.3).cos().view(shape).float()
    with torch.no_grad():
        out = net(x, torch.tensor([0.25, 0.8]), labels)
    torch.testing.assert_close(out.flatten()[:: x.numel() // 6][:6], torch.tensor(values), rtol=0, atol=1e-4)
    assert float(out.norm()) == pytest.approx(norm, abs=1e-3)


def test_a_fresh_network_returns_zero_and_its_blocks_add_nothing() -> None:
    torch.manual_seed(0)
    net = UNet(image_size=8, model_channels=32, channel_mult=(1, 2), attention_resolutions=(4,), num_head_channels=32)
    x = torch.randn(2, 3, 8, 8)
    assert not net(x, torch.rand(2)).any()
    h = torch.randn(2, 64, 4, 4)
    assert torch.equal(AttentionBlock(64, heads=2)(h), h)
    assert torch.equal(ResBlock(64, 64, embedding=16)(h, torch.randn(2, 16)), h)


def test_attention_is_the_softmax_average_of_values() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, heads=2).double()
    nn.init.normal_(block.proj_out.weight)
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    qkv = torch.einsum("oc,cp->op", block.qkv.weight[..., 0], block.norm(x)[0].flatten(1)) + block.qkv.bias[:, None]
    heads = []
    for q, k, v in (rows.chunk(3) for rows in qkv.chunk(2)):
        heads.append(v @ (k.T @ q / 2).softmax(0))
    expected = x[0].flatten(1) + block.proj_out.weight[..., 0] @ torch.cat(heads)
    torch.testing.assert_close(block(x)[0].flatten(1), expected)


def test_time_scale_multiplies_time() -> None:
    options: dict[str, Any] = {"image_size": 8, "model_channels": 32, "channel_mult": (1,), **PLAIN}
    raw, scaled = UNet(**options), UNet(**options, time_scale=100.0)
    fill(raw)
    fill(scaled)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(scaled(x, torch.tensor([0.5])), raw(x, torch.tensor([50.0])))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"image_size": 8, "model_channels": 32, "channel_mult": (1,), **PLAIN}
    net = UNet(**options, dropout=0.5)
    fill(net)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    assert not torch.equal(net.train()(x, t), net(x, t))
    assert torch.equal(net.eval()(x, t), net(x, t))


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (48, 3), (64, 3)])
def test_sizes_from_8_to_64(size: int, channels: int) -> None:
    net = UNet(
        image_size=size,
        in_channels=channels,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 1, 2),
        attention_resolutions=(),
    )
    x = torch.randn(1, channels, size, size)
    assert net.sample_shape == (channels, size, size)
    assert net(x, torch.rand(1)).shape == x.shape


def test_attention_sits_at_the_resolutions_named() -> None:
    with torch.device("meta"):
        net = UNet(attention_resolutions=(16, 4))
    seen = []
    for stage in net.input_blocks:
        width = next(stage.parameters()).shape[0]
        seen += [width for layer in stage if isinstance(layer, AttentionBlock)]
    assert len(seen) == 4
    assert isinstance(net.middle_block[1], AttentionBlock)
    assert sum(isinstance(layer, AttentionBlock) for stage in net.output_blocks for layer in stage) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_size": 8, "channel_mult": (1, 2, 2, 2, 2)},
            "images of 8x8 are smaller than the network takes: it halves them 4 times; "
            "use channel_mult with at most 3 entries",
        ),
        ({"image_size": 8}, "halves them 3 times; use channel_mult with at most 3 entries"),
        ({"image_size": 28}, "28x28 cannot be halved 3 times; resize them to a multiple of 8 or .* at most 3 entries"),
        ({"attention_resolutions": (7,)}, r"attention_resolutions holds 7 but the levels .* are \[32, 16, 8, 4\]"),
        ({"num_head_channels": 48}, "num_head_channels 48 does not divide the 256 channels"),
        ({"num_head_channels": None, "num_heads": 3}, "num_heads 3 does not divide the 256 channels"),
        ({"channel_mult": ()}, "channel_mult needs one positive integer a level"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"model_channels": 0}, "model_channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message) as caught:
        UNet(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (2, 3, 32), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    net = UNet(model_channels=32, channel_mult=(1,), **PLAIN)
    with pytest.raises(
        ValueError, match=r"the network takes \[B, 3, 32, 32\]; set in_channels and image_size to match"
    ):
        net(torch.zeros(shape), torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_in_bfloat16_is_that_of_float32_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = group_norm(48).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(3, 48, 6, 6) * 5 + 2).to(dtype).contiguous(memory_format=torch.channels_last)
    groups = x.double().reshape(3, norm.num_groups, -1)
    unit = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, correction=0) + norm.eps).sqrt()
    weight, bias = (p.double().view(1, -1, 1, 1) for p in (norm.weight, norm.bias))
    exact = unit.view(x.shape) * weight + bias
    y = norm(x)
    assert y.dtype == dtype
    tolerance = 2**-8 if dtype == torch.bfloat16 else 2e-6  # half a unit in the last place of bfloat16
    assert ((y.double() - exact).abs() <= tolerance * exact.abs() + 2e-6).all()
