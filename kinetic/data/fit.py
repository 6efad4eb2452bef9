"""Whether a data set fits a network."""

from typing import Any

from torch import nn

from kinetic.errors import KineticError
from kinetic.flow.field import Field


def check_fit(network: nn.Module, data: Any) -> None:
    """Raise ValueError with advice unless `network` takes images of `data.shape` and its number of classes."""
    stated = Field.of(network)
    if stated.shape is not None and tuple(data.shape) != stated.shape:
        raise KineticError(_shape_advice(tuple(data.shape), stated.shape))
    classes = stated.num_classes
    if classes is not None and (data.num_classes or 0) != classes:
        raise KineticError(
            f"the network has {classes} classes, but the data has {data.num_classes or 'none'}; "
            f"set network.init_args.num_classes to {data.num_classes or 'null'}"
        )


def _shape_advice(data: tuple[int, ...], network: tuple[int, ...]) -> str:
    head = f"the data has shape {data}, but the network takes {network}"
    if len(data) != 3 or len(network) != 3:
        return f"{head}; choose a network for data of this kind"
    if data[0] != network[0]:
        advice = "set --data.init_args.grayscale true" if network[0] == 1 else f"set in_channels to {data[0]}"
        return f"{head}: the channels differ; {advice}"
    return f"{head}: the sizes differ; set --data.init_args.size {network[1]}"
