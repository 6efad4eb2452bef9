"""What samples and training images are compared as: as they are, as decoded pictures, or by features of a network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Space, space_of
from kinetic.images import ImageSet, Item
from kinetic.metrics.extractors import CHOICES, Training, check_name, extractor
from kinetic.metrics.features import features
from kinetic.models.autoencoder import Decode
from kinetic.trust import STRANGER, Trust

SPACES = f"latents, pixels (those of decoded latents), or features: {CHOICES.partition(', ')[2]}"


@dataclass(frozen=True)
class View:
    """A space that distances are measured in.

    Attributes:
        space: as records state it: pixels, points, latents, decoded pixels, or the name of features.
        compute: samples [B, ...] -> what is compared [B, ...]; None leaves them as they are.
    """

    space: str
    compute: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What samples [B, ...] are compared as."""
        return x if self.compute is None else self.compute(x)

    @property
    def pictures(self) -> bool:
        """Whether what is compared are images that can be shown, or latents that can be decoded."""
        return self.compute is None or self.space == DECODED

    def source(self, items: Callable[[], Any]) -> Callable[[], Iterator[Item]]:
        """Images as (images, numbers, names), as a data module yields them, in this view."""

        def viewed() -> Iterator[Item]:
            for item in items():
                yield (self(item[0]), *item[1:]) if isinstance(item, tuple) else self(item)

        return items if self.compute is None else viewed


DECODED = "decoded pixels"


def space_of_data(data: Any) -> Space:
    """What the samples of a data module are."""
    if getattr(data, "latents", None) is not None:
        return "latents"
    shape = getattr(data, "shape", None)
    return "pixels" if shape is None else space_of(tuple(shape))


def check_space(name: str) -> None:
    """Raise KineticError unless distances can be measured in a space of this name."""
    if name in ("latents", "pixels"):
        return
    try:
        check_name(name)
    except KineticError as error:
        raise KineticError(f"no space to measure F_mem in is called {name!r:.80} ({error}); choose {SPACES}") from None


def is_local(name: str) -> bool:
    """Whether a space needs neither a download nor a file, so that the settings of a stranger's run may name it."""
    return name in ("latents", "pixels", "classifier") or name.startswith("pca:")


def view_of(
    name: str | None,
    data: Any,
    *,
    decode: Decode | None = None,
    device: torch.device | str = "cpu",
    trust: Trust = STRANGER,
) -> View:
    """The view called `name` of a data module's samples; None compares them as they are.

    Latents are decoded by `decode` for all but "latents". Raises KineticError where the samples are not of that kind.
    """
    own = space_of_data(data)
    if name is None or name == own:
        return View(own)
    if name == "latents":
        raise KineticError(f"F_mem cannot be measured in latents: the samples are {own}")
    if own == "latents" and decode is None:
        raise KineticError(f"F_mem in {name} needs the autoencoder of the latents, which is not at hand")
    if name == "pixels":
        if own == "points":
            raise KineticError("F_mem cannot be measured in pixels: the samples are points")
        return View(DECODED, decode)
    shown = View(DECODED, decode if own == "latents" else None)
    training = Training(images=ImageSet.of(shown.source(data.reference), "the reference"))
    made = extractor(name, training=training, device=device, trust=trust)
    return View(f"features {name}", lambda x: features(shown(x).cpu(), made))
