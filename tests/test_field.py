"""What a network declares about itself, and the one door for labels."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field, space_of
from kinetic.flow.integration import integrate
from kinetic.flow.paths import LINEAR, path
from kinetic.flow.sampling import Sampler, draw
from kinetic.nn import MLP, DiT, UNet
from kinetic.training.averaging import AveragedNetwork

F64 = torch.float64
POINT = torch.tensor([1.5, -0.5], dtype=F64)


def test_networks_declare_themselves() -> None:
    unet = UNet(
        image_size=8,
        in_channels=1,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=[1],
        attention_resolutions=[],
        num_head_channels=32,
        num_classes=4,
    )
    for net in (unet, AveragedNetwork(unet)):
        assert (Field.of(net).num_classes, Field.of(net).shape, Field.of(net).space) == (4, (1, 8, 8), "pixels")
    dit = Field.of(DiT(input_size=8, in_channels=4, depth=1, hidden_size=32, num_heads=2))
    assert (dit.num_classes, dit.shape, dit.space) == (None, (4, 8, 8), "latents")
    assert Field.of(MLP(dim=2, width=8)).space == "points"
    empirical = Field.of(EmpiricalVelocity(torch.zeros(3, 2), torch.tensor([0, 1, 1])))
    assert (empirical.num_classes, empirical.shape) == (2, (2,))


def test_a_plain_function_declares_nothing_and_a_field_is_taken_as_it_is() -> None:
    plain = Field.of(lambda x, t, labels: x)
    assert (plain.num_classes, plain.shape, plain.space) == (None, None, None)
    assert Field.of(plain) is plain
    assert Field.of(plain, shape=(3, 4, 4)).space == "pixels"
    with pytest.raises(ValueError, match=r"shape \(2,\) asked for, but the network makes \(3, 4, 4\)"):
        Field.of(Field.of(plain, shape=(3, 4, 4)), shape=(2,))
    with pytest.raises(ValueError, match="does not state the shape"):
        draw(plain, [0])


def test_a_network_that_states_classes_alone_is_conditional() -> None:
    class Classes(nn.Module):
        num_classes = 3

    assert (Field.of(Classes()).num_classes, Field.of(Classes()).shape) == (3, None)


@pytest.mark.parametrize(
    ("shape", "space"),
    [((2,), "points"), ((784,), "points"), ((1, 8, 8), "pixels"), ((3, 8, 8), "pixels"), ((4, 8, 8), "latents")],
)
def test_spaces(shape: tuple[int, ...], space: str) -> None:
    assert space_of(shape) == space


def prediction(kind: str, name: str, x: Tensor, t: Tensor) -> Tensor:
    """What a perfect network predicts where all data is one point: x1 is that point, the rest follows."""
    c = path(name).coefficients(t, x)
    x0 = (x - c.alpha * POINT) / c.sigma
    return {
        "velocity": c.d_alpha * POINT + c.d_sigma * x0,
        "x1": POINT.expand_as(x),
        "x0": x0,
        "score": -x0 / c.sigma,
    }[kind]


@pytest.mark.parametrize("time", ["noise_to_data", "data_to_noise"])
@pytest.mark.parametrize("kind", ["velocity", "x1", "x0", "score"])
@pytest.mark.parametrize("name", ["linear", "gvp"])
def test_every_prediction_in_either_direction_of_time_leads_to_the_same_place(name: str, kind: str, time: str) -> None:
    def net(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        t = t if time == "noise_to_data" else 1 - t
        value = prediction(kind, name, x, t.clamp(1e-4, 1 - 1e-4))
        return -value if time == "data_to_noise" and kind == "velocity" else value

    field = Field(net, prediction=kind, time=time, path=path(name))  # type: ignore[arg-type]
    x0 = torch.tensor([[0.3, 0.7], [-1.0, 0.2]], dtype=F64)
    found = integrate(lambda x, t: field(x, t), x0, method="euler", steps=2000, end=0.99)
    c = path(name).coefficients(torch.tensor(0.99, dtype=F64), x0)
    torch.testing.assert_close(found.x, c.alpha * POINT + c.sigma * x0, rtol=0, atol=5e-3)


def test_unknown_declarations_are_named() -> None:
    for wrong in ({"prediction": "epsilon"}, {"time": "backwards"}, {"space": "music"}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"unknown {name} '{value}'; choose from"):
            Field(lambda x, t, labels: x, **wrong)  # type: ignore[arg-type]


def test_labels_are_checked_at_one_door() -> None:
    field = Field(lambda x, t, labels: x, num_classes=3, shape=(2,))
    for labels in (1, [1, 1], torch.tensor([1, 1]), torch.tensor(1)):
        found = field.check_labels(labels, 2)
        assert found is not None
        assert (found.tolist(), found.dtype) == ([1, 1], torch.int64)
    assert field.check_labels(None, 2) is None
    assert field.check_labels([3, 0], 2) is not None  # 3 is the null label
    without_null = Field(lambda x, t, labels: x, num_classes=3, shape=(2,), null_label=False)
    with pytest.raises(ValueError, match=r"label 3 is outside the classes 0 to 2$"):
        without_null.check_labels([3, 0], 2)
    with pytest.raises(ValueError, match="a label that means none, which this network was not trained with"):
        draw(without_null, [0, 1], labels=0, sampler=Sampler(guidance=2.0))


def test_a_field_can_be_copied_and_pickled() -> None:
    field = Field(nn.Identity(), num_classes=3, shape=(2,), path=LINEAR)
    for again in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert (again.num_classes, again.shape, again.space) == (3, (2,), "points")
