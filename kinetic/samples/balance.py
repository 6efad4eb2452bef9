"""The energy balance of samples: from their table, and as rows of another."""

from collections.abc import Sequence
from typing import Any

from kinetic.memorization.balance import NUMBERS, Balance, Spent
from kinetic.samples.table import SampleTable


def spent_by(table: SampleTable, shape: Sequence[int]) -> Spent:
    """What the finite samples of a table, of `shape` each, spent: energy and power of the field, noise or not."""
    keep = table.finite
    return Spent.drawn(
        table.seeds[keep],
        shape,
        energy=table.columns["field_energy"][keep],
        times=table.times,
        power=table.power[:, keep],
        labels=table.labels[keep],
    )


def table_rows(found: Balance) -> dict[str, list[Any]]:
    """Columns label, t and the numbers: a row over all times (t is null), one of each class, then those over t."""
    rows: list[dict[str, Any]] = [{"label": None, "t": None, **_numbers(found)}]
    rows += [{"label": label, "t": None, **_numbers(one)} for label, one in found.classes.items()]
    for place in range(len(found.profile["t"])):
        rows.append({"label": None, **{name: float(values[place]) for name, values in found.profile.items()}})
    return {name: [row.get(name) for row in rows] for name in ("label", "t", *NUMBERS)}


def _numbers(found: Balance) -> dict[str, float | None]:
    return {name: getattr(found, name, None) for name in NUMBERS}
