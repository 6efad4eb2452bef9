import pytest
import torch

from kinetic.nn import MLP


def test_size_follows_from_width_and_depth() -> None:
    net = MLP(dim=2, width=16, depth=3)
    embedding, inp, hidden, out = 2 * (16 * 16 + 16), 2 * 16 + 16, 3 * (32 * 16 + 16), 16 * 2 + 2
    assert sum(p.numel() for p in net.parameters()) == embedding + inp + hidden + out
    assert net.sample_shape == (2,)


def test_it_learns_a_field_that_depends_on_place_time_and_label() -> None:
    torch.manual_seed(0)
    net = MLP(width=64, num_classes=2)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(400):
        x, t, labels = torch.randn(256, 2), torch.rand(256), torch.randint(0, 2, (256,))
        target = x.flip(1) * (1 - 2 * t[:, None]) + labels[:, None]
        loss = (net(x, t, labels) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


@pytest.mark.parametrize("option", ["dim", "width", "depth"])
def test_sizes_below_one_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        MLP(**{option: 0})


def test_points_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input has shape \(4, 3\) but the network takes \[B, 2\]; set dim to match"):
        MLP()(torch.zeros(4, 3), torch.zeros(4))
