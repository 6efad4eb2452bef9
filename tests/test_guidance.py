"""Classifier-free guidance as a velocity."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kinetic.flow.field import Field
from kinetic.flow.guidance import guided


class Net:
    """v = x + t + table[label], with three classes and a null row; it records what it is called with."""

    num_classes: int | None = 3

    def __init__(self) -> None:
        self.table = torch.tensor([10.0, 20.0, 30.0, 1.0])
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls.append((x, t, labels))
        shift = torch.zeros(len(x)) if labels is None else self.table[labels]
        return x + (t + shift)[:, None]


X, T, LABELS = torch.zeros(2, 4), torch.tensor([0.25, 0.5]), torch.tensor([0, 2])


def test_scale_one_calls_once_with_the_labels_as_given() -> None:
    net = Net()
    v = guided(net, LABELS, 1.0)(X, T)
    assert v[:, 0].tolist() == [10.25, 30.5]
    assert len(net.calls) == 1
    assert net.calls[0][0] is X
    assert net.calls[0][2] is LABELS
    assert guided(net, None)(X, T)[:, 0].tolist() == [0.25, 0.5]


@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0, -1.0])
def test_another_scale_calls_once_on_a_doubled_batch(scale: float) -> None:
    net = Net()
    v = guided(net, LABELS, scale)(X, T)
    assert v[:, 0].tolist() == [0.25 + 1 + scale * 9, 0.5 + 1 + scale * 29]
    assert v.shape == X.shape
    assert [len(x) for x, _, _ in net.calls] == [4]
    assert net.calls[0][2] is not None
    assert net.calls[0][2].tolist() == [0, 2, 3, 3]
    assert net.calls[0][1].tolist() == [0.25, 0.5, 0.25, 0.5]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_scalar_time_reaches_the_network_as_one_for_each_row(scale: float) -> None:
    net = Net()
    guided(net, LABELS, scale)(X, torch.tensor(0.5))
    assert net.calls[0][1].shape == (len(net.calls[0][0]),)


def test_guidance_without_classes_or_labels_is_refused() -> None:
    net = Net()
    with pytest.raises(ValueError, match="guidance 2 needs labels; use guidance 1"):
        guided(net, None, 2.0)
    net.num_classes = None
    with pytest.raises(ValueError, match="guidance 2 needs a class-conditional network"):
        guided(net, LABELS, 2.0)


def test_channels_beyond_those_that_are_guided_keep_the_velocity_of_their_labels() -> None:
    field = replace(Field.of(Net()), cfg_channels=3)
    v = guided(field, LABELS, 4.0)(X, T)
    assert v[:, :3].tolist() == [[0.25 + 1 + 4 * 9] * 3, [0.5 + 1 + 4 * 29] * 3]
    assert v[:, 3].tolist() == [10.25, 30.5]
    assert guided(field, LABELS, 1.0)(X, T)[:, 0].tolist() == [10.25, 30.5]
