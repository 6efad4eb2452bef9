"""What every reader of sizes needs: shapes by name, numbered parts, tables of labels; what does not fit is one line."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from kinetic.errors import KineticError


@dataclass(frozen=True)
class Shapes:
    """The shapes of a file's tensors.

    Attributes:
        weights: tensors by name.
        source: how the file is called in messages.
    """

    weights: dict[str, Tensor]
    source: str

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def of(self, name: str, axes: int) -> tuple[int, ...]:
        """Shape of a tensor that the network needs, of so many axes, none of them empty."""
        if name not in self.weights:
            raise self.fault(f"it lacks {name}")
        shape = tuple(self.weights[name].shape)
        if len(shape) != axes or 0 in shape:
            raise self.fault(f"{name} has shape {shape}, not one of {axes} axes")
        return shape

    def numbers(self, prefix: str) -> list[int]:
        """The numbers N of the tensors called `prefix`N.something, ascending."""
        found = (re.match(rf"{re.escape(prefix)}([0-9]{{1,6}})\.", name) for name in self.weights)
        return sorted({int(match[1]) for match in found if match})

    def count(self, prefix: str) -> int:
        """How many parts called `prefix`N there are, which have to be numbered from 0 on."""
        numbers = self.numbers(prefix)
        if not numbers or numbers != list(range(len(numbers))):
            raise self.fault(f"its {prefix}N are not numbered from 0 on")
        return len(numbers)

    def ratio(self, what: str, number: int, part: int) -> int:
        """`number` / `part`, which has to be whole."""
        if number < part or number % part:
            raise self.fault(f"{what} is {number}, no multiple of {part}")
        return number // part

    def first(self, names: Iterable[str]) -> str | None:
        """The first of the names that there is."""
        return next((name for name in names if name in self.weights), None)

    def fault(self, why: str) -> KineticError:
        """Say why the sizes cannot be those of a network."""
        return KineticError(f"{self.source} does not fit a network of its kind: {why}")


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A public network in our terms.

    Attributes:
        network: the arguments of its class here.
        field: what else it declares, as in `Field`.
        classes: how many it knows; None where it knows none.
        notes: what was read off or assumed, for people.
    """

    network: dict[str, Any]
    field: dict[str, Any]
    classes: int | None
    notes: list[str] = default(default_factory=list)


def read_classes(
    shapes: Shapes, table: str, classes: int | None, whole: tuple[int, ...] = ()
) -> tuple[int | None, bool, list[str]]:
    """How many classes a table of labels knows, whether its last row means none of them, and what to say of it.

    Tables of as many rows as `whole` says are taken to have no null row; `classes`, where given, decides.
    """
    if table not in shapes:
        if classes is not None:
            raise KineticError(f"--classes {classes}: {shapes.source} has no table of labels; leave it out")
        return None, True, []
    rows = shapes.of(table, 2)[0]
    null = rows not in whole if classes is None else rows == classes + 1
    known = rows - null
    if known < 1 or classes not in (None, known):
        raise KineticError(f"--classes {classes}: the table of labels in {shapes.source} has {rows} rows")
    words = "and a row for none of them" if null else "without a row for none of them: no guidance"
    return known, null, [f"{known:,} classes {words} (--classes)"]


def with_null_row(weights: dict[str, Tensor], classes: int | None) -> dict[str, Tensor]:
    """Weights whose table of labels has the row that ours have behind the classes, zero where there was none."""
    for name in ("label_emb.weight", "y_embedder.embedding_table.weight"):
        if name in weights and weights[name].shape[0] == classes:
            return {**weights, name: pad(weights[name], (0, 0, 0, 1))}
    return weights
