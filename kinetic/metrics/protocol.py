"""How a figure of quality came about: figures of different protocols are not compared."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from kinetic.errors import KineticError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a figure of quality depends on besides the samples; None where it is not stated.

    Attributes:
        samples: number of generated images.
        real: number of real images that they are compared with.
        split: which real images, such as "train" or "held out".
        extractor: name of the features.
        extractor_hash: of what decides what the features are.
        resize: how images were brought to the size that the extractor takes.
        k: which neighbour sets the radius in precision, recall, density and coverage.
        solver: method of integration; steps and nfe: intervals, and network evaluations a sample.
        weights: which weights of the network, such as "ema".
        seeds: of the samples, such as "0-799".
    """

    samples: int
    real: int
    split: str | None = None
    extractor: str | None = None
    extractor_hash: str | None = None
    resize: str | None = None
    k: int | None = None
    solver: str | None = None
    steps: int | None = None
    nfe: int | None = None
    weights: str | None = None
    seeds: str | None = None

    def check_comparable(self, other: "Protocol", *, varying: tuple[str, ...] = ()) -> None:
        """Raise KineticError that names the first field in which two protocols differ.

        A field in `varying` may differ: it is what the comparison is about.
        """
        mine, theirs = asdict(self), asdict(other)
        if unknown := next((name for name in varying if name not in mine), None):
            raise KineticError(f"a protocol has no {unknown!r}; choose from {', '.join(mine)}")
        for name in mine:
            if mine[name] != theirs[name] and name not in varying:
                raise KineticError(
                    f"figures of different protocols are not compared: {name} is {_shown(mine[name])} here and "
                    f"{_shown(theirs[name])} there; measure both the same way"
                )

    def to_dict(self) -> dict[str, Any]:
        """What is stated, as plain types."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


def _shown(value: object) -> str:
    return "not stated" if value is None else f"{value}"
