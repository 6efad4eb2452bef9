"""The unit that energies are in: that of the squared values of the samples, whatever these are.

Figures and reports ask for it; who draws them says once, for all of them, what space the samples lie in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

UNITS = {"pixels": "squared pixel units", "latents": "squared latent units", "points": "squared units of the points"}
SUMS = {
    "pixels": "a sum over all pixels, which run from -1 to 1",
    "latents": "a sum over all numbers of the latents, scaled as the network has them, not over pixels",
    "points": "a sum over all coordinates",
}
_space: ContextVar[str] = ContextVar("space", default="pixels")


@contextmanager
def energies_of(space: str | None) -> Iterator[None]:
    """Let energies be those of samples in a space; of pixels where it is None or another word."""
    token = _space.set(space if space in UNITS else "pixels")
    try:
        yield
    finally:
        _space.reset(token)


def energy_unit() -> str:
    """The unit of energy and power."""
    return UNITS[_space.get()]


def unit_beside() -> str:
    """The unit in brackets, to stand behind energies; nothing for pixels, whose unit goes without saying."""
    return "" if _space.get() == "pixels" else f" ({energy_unit()})"


def energy_label(gap: str = "  ") -> str:
    """What an axis of energies is called, with `gap` before the unit."""
    return f"energy ½∫‖v‖²dt{gap}({energy_unit()})"


def power_label() -> str:
    """What an axis of powers is called."""
    return f"power ½‖v‖²  ({energy_unit()})"


def energy_sum() -> str:
    """What is added up to an energy."""
    return SUMS[_space.get()]
