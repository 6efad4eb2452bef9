"""Dropout: how much is dropped, what becomes of the rest, and where it is torch's own."""

import pytest
import torch
from torch import nn

from kinetic.nn.dropout import LEVELS, Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drops_a_share_and_scales_the_rest_to_the_same_expectation(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(512, 1001, dtype=dtype))
    share = (y == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / y.numel()) ** 0.5  # five standard deviations
    kept = 1 - round(p * LEVELS) / LEVELS
    torch.testing.assert_close(y[y != 0].unique(), torch.tensor([1 / kept], dtype=dtype))


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(100_000, 4)) == 0).double()  # four share one random number
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / 100_000**0.5


def test_gradient_is_that_of_the_mask_in_place_or_not() -> None:
    x = torch.randn(3, 5, 4, 4, requires_grad=True)
    for inplace in (False, True):
        torch.manual_seed(1)
        y = Dropout(0.3, inplace=inplace)(x * 1.0)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient * x, y)


def test_mask_has_the_layout_of_the_input_and_follows_the_seed() -> None:
    x = torch.ones(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    drop = Dropout(0.5)
    torch.manual_seed(7)
    first = drop(x)
    torch.manual_seed(7)
    assert torch.equal(first, drop(x))
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(first, drop(x))


def test_drops_all_at_one_and_nothing_in_evaluation() -> None:
    x = torch.ones(3, 7)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(3, 7))
    assert torch.equal(Dropout(0.9).eval()(x), x)


def test_a_network_that_trains_with_it_compiles_to_one_graph() -> None:
    net = nn.Sequential(nn.Linear(8, 8), Dropout(0.5, inplace=True))
    net.compile(backend="aot_eager", fullgraph=True)
    y = net(torch.ones(4, 8))
    y.sum().backward()
    assert (y == 0).any()
