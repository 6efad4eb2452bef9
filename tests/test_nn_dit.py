import hashlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetic.nn import DiT
from kinetic.nn.positions import rotary_waves, rotate

TINY: dict[str, Any] = {"depth": 2, "hidden_size": 32, "num_heads": 4, "input_size": 8}


def fingerprint(net: nn.Module) -> tuple[int, int, str]:
    """Numbers, tensors, and a hash of the names and shapes of a network's state."""
    state = net.state_dict()
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return sum(value.numel() for value in state.values()), len(state), digest


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("XL", (675_129_632, 292, "af6f07b0d6cf8bb4")),
        ("L", (458_102_816, 252, "42a769a9578a25e2")),
        ("B", (130_512_416, 132, "e60eb788d83f36ba")),
        ("S", (32_963_360, 132, "eb04642885731fca")),
    ],
)
def test_sizes_of_sit(size: Any, expected: tuple[int, int, str]) -> None:
    with torch.device("meta"):
        net = DiT(size=size, num_classes=1000, learn_sigma=True)
    assert fingerprint(net) == expected


def test_names_of_sit() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in DiT(size="XL", num_classes=1000, learn_sigma=True).state_dict().items()}
    assert shapes["pos_embed"] == (1, 256, 1152)
    assert shapes["x_embedder.proj.weight"] == (1152, 4, 2, 2)
    assert shapes["t_embedder.mlp.0.weight"] == (1152, 256)
    assert shapes["y_embedder.embedding_table.weight"] == (1001, 1152)
    assert shapes["blocks.27.attn.qkv.weight"] == (3456, 1152)
    assert shapes["blocks.0.mlp.fc1.weight"] == (4608, 1152)
    assert shapes["blocks.0.adaLN_modulation.1.bias"] == (6912,)
    assert shapes["final_layer.adaLN_modulation.1.weight"] == (2304, 1152)
    assert shapes["final_layer.linear.weight"] == (32, 1152)


def test_position_embedding_is_fixed_columns_first_sines_first() -> None:
    net = DiT(**TINY)
    assert "pos_embed" not in dict(net.named_parameters())
    omega = [10_000.0 ** (-i / 8) for i in range(8)]
    row, column = 2, 3
    halves = [wave(f * place) for place in (column, row) for wave in (math.sin, math.cos) for f in omega]
    torch.testing.assert_close(net.pos_embed[0, 4 * row + column], torch.tensor(halves), rtol=0, atol=1e-6)


def reference(state: dict[str, Tensor], x: Tensor, t: Tensor, labels: Tensor, heads: int) -> Tensor:
    """SiT with patches of 2, written out from its paper and the names of its weights."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(value: Tensor) -> Tensor:
        return (value - value.mean(-1, keepdim=True)) / (value.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    batch, channels, size, _ = x.shape
    grid, width = size // 2, state["pos_embed"].shape[2]
    angles = t[:, None] * 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))))
    signal = F.silu(time + state["y_embedder.embedding_table.weight"][labels])
    patches = x.reshape(batch, channels, grid, 2, grid, 2)
    h = torch.einsum("bchpwq,ocpq->bhwo", patches, state["x_embedder.proj.weight"]) + state["x_embedder.proj.bias"]
    h = h.reshape(batch, grid**2, width) + state["pos_embed"]
    for i in range(2):
        block = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            part[:, None] for part in linear(f"{block}.adaLN_modulation.1", signal).chunk(6, 1)
        )
        qkv = linear(f"{block}.attn.qkv", norm(h) * (1 + scale1) + shift1).view(batch, grid**2, 3, heads, -1)
        q, k, v = qkv.unbind(2)
        weights = (torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = torch.einsum("bhij,bjhd->bihd", weights, v).reshape(batch, grid**2, width)
        h = h + gate1 * linear(f"{block}.attn.proj", mixed)
        inner = linear(f"{block}.mlp.fc1", norm(h) * (1 + scale2) + shift2)
        h = h + gate2 * linear(f"{block}.mlp.fc2", F.gelu(inner, approximate="tanh"))
    shift, scale = (part[:, None] for part in linear("final_layer.adaLN_modulation.1", signal).chunk(2, 1))
    out = linear("final_layer.linear", norm(h) * (1 + scale) + shift).view(batch, grid, grid, 2, 2, -1)
    return torch.einsum("bhwpqc->bchpwq", out).reshape(batch, -1, size, size)[:, :channels]


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_forward_is_that_of_the_paper(learn_sigma: bool) -> None:
    torch.manual_seed(0)
    net = DiT(**TINY, in_channels=3, num_classes=5, learn_sigma=learn_sigma).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, t = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    labels = torch.tensor([0, 4, 5])
    expected = reference(net.state_dict(), x, t, labels, heads=4)
    torch.testing.assert_close(net(x, t, labels), expected, rtol=1e-8, atol=1e-8)


def test_initial_weights_are_adaln_zero() -> None:
    torch.manual_seed(0)
    net = DiT(size="S", depth=1, num_classes=100, input_size=8)
    x = torch.randn(2, 4, 8, 8)
    assert not net(x, torch.rand(2)).any()
    h = torch.randn(2, 16, 384)
    assert torch.equal(net.blocks[0](h, torch.randn(2, 384)), h)
    state = net.state_dict()
    assert float(state["y_embedder.embedding_table.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["t_embedder.mlp.2.weight"].std()) == pytest.approx(0.02, rel=0.05)
    for name, fans in [("x_embedder.proj.weight", 16 + 384), ("blocks.0.attn.qkv.weight", 384 + 3 * 384)]:
        assert float(state[name].abs().max()) == pytest.approx(math.sqrt(6 / fans), rel=0.02)


def test_qk_norm_adds_two_norms_a_block_and_starts_at_one() -> None:
    net = DiT(**TINY, qk_norm=True)
    assert len(net.state_dict()) == len(DiT(**TINY).state_dict()) + 2 * 4
    assert torch.equal(net.state_dict()["blocks.1.attn.k_norm.weight"], torch.ones(8))


def test_qk_norm_bounds_the_logits() -> None:
    torch.manual_seed(0)
    net = DiT(**TINY, qk_norm=True)
    attention = net.blocks[0].attn
    x = torch.randn(1, 16, 32)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 1000
    torch.testing.assert_close(attention(x), before, rtol=1e-2, atol=1e-3)


def test_numbers_override_the_size() -> None:
    with torch.device("meta"):
        net = DiT(size="L", depth=3, num_heads=8, patch_size=4)
    assert len(net.blocks) == 3
    assert net.blocks[0].attn.num_heads == 8
    assert net.pos_embed.shape == (1, 64, 1024)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "H"}, "size must be one of S, B, L, XL, got 'H'"),
        ({"patch_size": 3}, "input_size 8 is not a multiple of patch_size 3"),
        ({"num_heads": 5}, "hidden_size 32 is not a multiple of num_heads 5"),
        ({"hidden_size": 30, "num_heads": 5}, "hidden_size must be a multiple of 4"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be above 0"),
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"mlp": "relu"}, "mlp must be one of gelu, swiglu, got 'relu'"),
        ({"rotary": True, "num_heads": 16}, "rotary positions need a multiple of 4 channels a head, got 2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DiT(**{**TINY, **options})
    assert "\n" not in str(caught.value)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes \[B, 4, 8, 8\]; set in_channels and input_size to match"):
        DiT(**TINY)(torch.zeros(2, 4, 16, 16), torch.zeros(2))


def test_rotary_positions_see_how_far_patches_are_apart_and_in_which_direction() -> None:
    waves = rotary_waves(8, 4)
    assert waves.shape == (2, 16, 8)
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def product(row: int, column: int, other_row: int, other_column: int) -> float:
        places = [4 * row + column, 4 * other_row + other_column]
        one, other = (
            rotate(x.expand(1, 1, 16, 8), waves.double())[0, 0, n] for x, n in zip((q, k), places, strict=True)
        )
        return float(one @ other)

    assert product(0, 0, 2, 1) == pytest.approx(product(1, 2, 3, 3), rel=1e-5)
    assert product(1, 1, 1, 1) == pytest.approx(float(q @ k), rel=1e-5)
    assert product(0, 0, 2, 1) != pytest.approx(product(0, 0, 1, 2), rel=1e-2)
    assert product(0, 0, 2, 1) != pytest.approx(product(2, 1, 0, 0), rel=1e-2)


def test_blocks_of_lightningdit_are_named_as_its_weights_and_train() -> None:
    net = DiT(**TINY, norm="rms", mlp="swiglu", rotary=True, qk_norm=True)
    state = net.state_dict()
    assert state["blocks.0.mlp.w12.weight"].shape == (2 * 85, 32)  # 2/3 of 128, rounded down
    assert {"blocks.0.norm1.weight", "final_layer.norm_final.weight", "blocks.1.attn.q_norm.weight"} < set(state)
    assert not any("waves" in name for name in state)  # computed, not kept
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    net(torch.randn(2, 4, 8, 8), torch.rand(2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
