import math

import pytest
import torch

from kinetic.nn.embed import LabelEmbedding, TimeEmbedding, sinusoid


def test_sinusoid_is_cosines_then_sines_from_frequency_one_down() -> None:
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    waves = sinusoid(t, 8)
    frequencies = [10_000.0 ** (-i / 4) for i in range(4)]
    expected = [[math.cos(f * s) for f in frequencies] + [math.sin(f * s) for f in frequencies] for s in t.tolist()]
    torch.testing.assert_close(waves, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_sinusoid_of_an_odd_number_of_features_ends_in_zero() -> None:
    waves = sinusoid(torch.tensor([0.5]), 5)
    assert waves.shape == (1, 5)
    assert waves[0, 4] == 0
    assert waves[0, 3] != 0


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_ten_thousand_times_stay_distinct_in_bf16(weights: torch.dtype) -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(32, 64).to(weights)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = embedding(torch.linspace(0, 1, 10_000))
    assert out.dtype == torch.float32
    assert (out[1:] != out[:-1]).any(dim=1).all()
    assert torch.unique(out, dim=0).shape[0] == 10_000


def test_autocast_does_not_change_the_time_embedding() -> None:
    embedding, t = TimeEmbedding(32, 64), torch.rand(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = embedding(t)
    assert torch.equal(inside, embedding(t))


def test_scale_multiplies_time() -> None:
    torch.manual_seed(0)
    slow, fast = TimeEmbedding(16, 8), TimeEmbedding(16, 8, scale=1000.0)
    fast.load_state_dict(slow.state_dict())
    assert torch.equal(fast(torch.tensor([0.25])), slow(torch.tensor([250.0])))


def test_float64_time_stays_float64() -> None:
    embedding = TimeEmbedding(16, 8).double()
    assert embedding(torch.rand(3, dtype=torch.float64)).dtype == torch.float64


def test_label_table_has_one_row_more_than_classes() -> None:
    table = LabelEmbedding(10, 4)
    assert table.weight.shape == (11, 4)
    assert torch.equal(table(torch.tensor([10])), table.weight[10:])
