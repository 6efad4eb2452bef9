"""The gain of a run's field on held-out images, as its validations measured it."""

import math
from pathlib import Path

import pyarrow as pa

from kinetic.errors import KineticError, first_line
from kinetic.flow.shaping import KTS, calibrated
from kinetic.store.tables import read_parquet

FILE = "balance.parquet"
FLOOR = 0.05


def calibrated_shaping(run: Path, step: int, *, floor: float = FLOOR, tau: float | None = None) -> KTS:
    """Shape by η* over t of the last validation of `run` at or before `step`; see `flow.shaping.calibrated`.

    KineticError, with what to do, where the run has not measured it.
    """
    advice = "train with kinetic.callbacks.BalanceCallback, or use another --kts"
    if not (run / FILE).is_file():
        raise KineticError(f"--kts calibrated needs the energy balance, and run {run.name} has no {FILE}; {advice}")
    try:
        rows = read_parquet(run / FILE).to_pylist()
        known = [row for row in rows if row["label"] is None and row["t"] is not None and row["step"] <= step]
        last = max((row["step"] for row in known), default=None)
        found = sorted((row["t"], row["gain"]) for row in known if row["step"] == last and _measured(row))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise KineticError(f"{run / FILE} is damaged or another table ({first_line(error)}); {advice}") from None
    if not found:
        raise KineticError(f"--kts calibrated: {run / FILE} has no gain up to step {step}; {advice}")
    times, gains = zip(*found, strict=True)
    return calibrated(times, gains, floor=floor, tau=tau)


def _measured(row: dict[str, float | None]) -> bool:
    """Whether there were held-out images in this bin of t."""
    gain, held = row["gain"], row["held_out"]
    return gain is not None and held is not None and math.isfinite(gain) and math.isfinite(held)
