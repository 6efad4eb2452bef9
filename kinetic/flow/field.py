"""What can be followed: a network `net(x, t, labels)` and what it declares about itself.

Everything that samples, measures or trains reads classes, shape, space, prediction and direction of time here, and
labels are checked here alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from kinetic.errors import KineticError
from kinetic.flow.paths import LINEAR, AffinePath, Quantity

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Velocity = Callable[[Tensor, Tensor], Tensor]
Space = Literal["pixels", "latents", "points"]
Direction = Literal["noise_to_data", "data_to_noise"]
EDGE = 1e-4  # predictions other than the velocity determine it only inside (0, 1): closer times are read as this close

PRECISIONS: dict[str, torch.dtype | None] = {
    "32": None,
    "32-true": None,
    "64": None,
    "64-true": None,
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16": torch.float16,
    "16-mixed": torch.float16,
}


@runtime_checkable
class WithClasses(Protocol):
    """A network that says how many classes it knows; None means that labels play no part."""

    num_classes: int | None


@runtime_checkable
class WithShape(Protocol):
    """A network that says what shape its samples have, without the batch axis; None where any will do."""

    sample_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Field:
    """A network that can be followed, and what it is.

    Attributes:
        net: called as net(x [B, ...], t [B], labels int64 [B] or None) -> its prediction [B, ...].
        num_classes: labels lie in 0 to num_classes - 1; None where there are none.
        shape: of one sample, without the batch axis; None where any will do.
        null_label: whether label `num_classes` means "no label", which guidance needs.
        cfg_channels: how many channels guidance acts on, the first ones; None for all.
        space: what samples are: pixels in [-1, 1], latents of an autoencoder, or points.
        prediction: what the net predicts: velocity, x1 (the data), x0 (the noise) or score.
        time: noise_to_data where t = 0 is noise, as everywhere in Kinetic; data_to_noise for the opposite.
        path: which the net was trained on, by which other predictions become velocities.
    """

    net: Network
    num_classes: int | None = None
    shape: tuple[int, ...] | None = None
    null_label: bool = True
    cfg_channels: int | None = None
    space: Space | None = None
    prediction: Quantity = "velocity"
    time: Direction = "noise_to_data"
    path: AffinePath = LINEAR

    def __post_init__(self) -> None:
        for name, value, kinds in (
            ("prediction", self.prediction, get_args(Quantity)),
            ("time", self.time, get_args(Direction)),
            ("space", self.space, (*get_args(Space), None)),
        ):
            if value not in kinds:
                raise KineticError(f"unknown {name} {value!r}; choose from {', '.join(filter(None, kinds))}")
        if self.cfg_channels is not None and self.cfg_channels < 1:
            raise KineticError(f"cfg_channels must be at least 1, or null for all, got {self.cfg_channels}")
        if self.space is None and self.shape is not None:
            object.__setattr__(self, "space", space_of(self.shape))

    @classmethod
    def of(cls, net: "Network | Field", *, shape: Sequence[int] | None = None) -> "Field":
        """Take a field as it is, and a network for what it declares (`num_classes`, `sample_shape`): a velocity.

        `shape` is used where it declares none; one that differs from it is a KineticError.
        """
        if isinstance(net, Field):
            field = net
        else:
            classes = net.num_classes if isinstance(net, WithClasses) else None
            stated = net.sample_shape if isinstance(net, WithShape) else None
            field = cls(net, num_classes=classes, shape=None if stated is None else tuple(stated))
        if shape is None or field.shape == tuple(shape):
            return field
        if field.shape is not None:
            raise KineticError(f"samples of shape {tuple(shape)} asked for, but the network makes {field.shape}")
        return replace(field, shape=tuple(shape))

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Velocity from noise to data at `x` [B, ...] and `t` [B], for `labels` [B] -> [B, ...]."""
        if self.prediction != "velocity":
            t = t.clamp(EDGE, 1 - EDGE)
        value = self.net(x, t if self.time == "noise_to_data" else 1 - t, labels)
        if self.prediction != "velocity":
            return self.path.convert(value, x, t, given=self.prediction, to="velocity")
        return value if self.time == "noise_to_data" else -value

    def check_labels(self, labels: Tensor | Sequence[int] | int | None, count: int) -> Tensor | None:
        """Bring labels, one for all or one for each of `count` rows, to int64 [count]; the null label counts as one.

        Raises KineticError for labels that the field does not know. Labels on a device are read once by the host.
        """
        if labels is None:
            if self.num_classes is not None and not self.null_label:
                raise KineticError("the network knows no label that means none; pass labels")
            return None
        if self.num_classes is None:
            raise KineticError("labels given, but the network is unconditional; leave them out")
        given = labels.tolist() if isinstance(labels, Tensor) else labels
        wanted = [given] * count if isinstance(given, int) else [int(label) for label in given]
        if len(wanted) != count:
            raise KineticError(f"labels must be one for all or one for each of {count} seeds, got {len(wanted)}")
        check_range(wanted, self.num_classes, null=self.null_label)
        return torch.tensor(wanted, dtype=torch.int64)


def check_range(labels: Sequence[int], num_classes: int, *, null: bool) -> None:
    """Raise KineticError, naming the label, unless all lie in 0 to num_classes - 1, or with `null` to num_classes."""
    outside = next((label for label in labels if not 0 <= label < num_classes + null), None)
    if outside is not None:
        more = f" (and {num_classes}, the null label)" if null else ""
        raise KineticError(f"label {outside} is outside the classes 0 to {num_classes - 1}{more}")


def space_of(shape: Sequence[int]) -> Space:
    """What samples of a shape are taken for: points [D], grey or RGB pixels [1 or 3, H, W], else latents."""
    if len(shape) == 1:
        return "points"
    return "pixels" if len(shape) == 3 and shape[0] in (1, 3) else "latents"


@contextmanager
def evaluating(net: Any) -> Iterator[None]:
    """Put every part of a module into evaluation mode for a while, and each back as it was; without gradients."""
    parts = list(net.modules()) if isinstance(net, nn.Module) else []
    training = [part for part in parts if part.training]
    for part in parts:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def in_precision(net: Network, precision: str, device: torch.device) -> Network:
    """Wrap `net` so that autocast is as `precision` says around the network alone, whatever it is outside."""
    if precision not in PRECISIONS:
        raise KineticError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]

    def cast(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return net(x, t, labels)

    return cast
