"""Where the field of points in the plane leads: from noised held-out points to the data that it expects."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field, evaluating
from kinetic.flow.paths import LINEAR, AffinePath
from kinetic.flow.sampling import velocity_of
from kinetic.models.opening import Origin
from kinetic.tensors import seeded_noise

TIMES = (0.5, 0.8, 0.9, 0.95)
NOISE = 2**41  # seed of the first place's noise


@dataclass(frozen=True)
class Plane:
    """Endpoints x̂1 = E[x1 | xt] that fields expect from the same places of the plane, on the CPU.

    Attributes:
        times: [T].
        places: xt, held-out points under noise [T, n, 2].
        endpoints: of each field by its name [T, n, 2].
        training: the training points [m, 2].
    """

    times: tuple[float, ...]
    places: Tensor
    endpoints: dict[str, Tensor]
    training: Tensor

    def distances(self, name: str) -> list[float]:
        """Median distance from a field's endpoints to the nearest training point, at each time."""
        return [float(torch.cdist(found, self.training).amin(1).median()) for found in self.endpoints[name]]


def is_plane(shape: Sequence[int]) -> bool:
    """Whether samples of this shape are points in the plane."""
    return tuple(shape) == (2,)


def plane_of(
    origin: Origin,
    data: FlowDataModule,
    *,
    times: Sequence[float] = TIMES,
    places: int = 400,
    most: int = 10_000,
    device: torch.device | str = "cpu",
) -> Plane:
    """Ask a field of points where it leads from at most `places` held-out points under noise, at each of `times`.

    Beside it, where it was trained on the linear path with independent noise, whose optimum is known in closed form:
    the fields of at most `most` training and of as many held-out points. One of the first copies; one of the second,
    with points enough, is what it should have learnt.
    """
    held, labels = _points(data, held_out=True, limit=most)
    training, theirs = _points(data, held_out=False, limit=most)
    fields = {"followed": origin.field}
    if origin.field.path.name == LINEAR.name and origin.coupling == "independent":
        for name, points, classes in (("training", training, theirs), ("held-out", held, labels)):
            wanted = origin.field.num_classes is not None
            net = EmpiricalVelocity(points, classes if wanted else None, num_classes=origin.field.num_classes)
            fields[name] = Field.of(net, shape=origin.field.shape)
    if labels is not None and theirs is not None:  # a class without training points has no closed form
        held, labels = held[torch.isin(labels, theirs)], labels[torch.isin(labels, theirs)]
    some, chosen = held[:places], None if labels is None else labels[:places]
    noise = seeded_noise(torch.arange(len(some)) + NOISE, (2,))
    path = origin.field.path
    starts = torch.stack([path.sample(noise, some, torch.full((len(some),), t)).xt for t in times])
    ends = {name: _endpoints(field, starts, times, chosen, path, device) for name, field in fields.items()}
    return Plane(tuple(times), starts, ends, training)


def _points(data: FlowDataModule, *, held_out: bool, limit: int) -> tuple[Tensor, Tensor | None]:
    """Held-out or training points [n, 2] of a data module and their labels."""
    parts = list(data.labelled(held_out=held_out, limit=limit, chunk=limit))
    labels = [one for _, _, one in parts if one is not None]
    return torch.cat([points for points, _, _ in parts]), torch.cat(labels) if labels else None


def _endpoints(
    field: Field,
    starts: Tensor,
    times: Sequence[float],
    labels: Tensor | None,
    path: AffinePath,
    device: torch.device | str,
) -> Tensor:
    found = []
    with torch.no_grad(), evaluating(field.net):
        for x, t in zip(starts.to(device), times, strict=True):
            velocity = velocity_of(field, x, labels=labels if field.num_classes is not None else None)
            at = torch.full((len(x),), t, device=x.device)
            found.append(path.convert(velocity(x, at), x, at, given="velocity", to="x1").cpu())
    return torch.stack(found)
