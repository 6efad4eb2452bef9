"""The networks: UNet and DiT for images, MLP for points. All are called `net(x, t, labels)`."""

from typing import TYPE_CHECKING, Any

from kinetic.nn.mlp import MLP
from kinetic.nn.unet import UNet

if TYPE_CHECKING:
    from kinetic.nn.dit import DiT

__all__ = ["MLP", "DiT", "UNet"]


def __getattr__(name: str) -> Any:
    """Import DiT when it is first asked for: timm, which it is made of, takes seconds to import."""
    if name == "DiT":
        from kinetic.nn.dit import DiT

        return DiT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
