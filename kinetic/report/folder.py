"""The measurements of one run folder, each file read once, when it is first asked for."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kinetic.errors import KineticError
from kinetic.flow.shaping import KTS
from kinetic.metrics.statistics import THRESHOLD
from kinetic.plots import Curve
from kinetic.report.sources import (
    Metrics,
    Table,
    Unavailable,
    by_step,
    number,
    read_about,
    read_json,
    read_rows,
    read_table,
    reading,
)
from kinetic.store.settings import SavedConfig

BALANCE = ("power", "conditional", "held_out", "train", "excess_low", "excess_high", "gain")


class Run:
    """The files of one run folder, each read once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def kpe(self) -> Table:
        """One row per validation sample with its energies."""
        return read_table(self.folder / "kpe.parquet", ("step", "energy"))

    @cached_property
    def metrics(self) -> Metrics:
        """The rows of metrics.csv."""
        return Metrics(read_rows(self.folder / "metrics.csv", ("step",)))

    @cached_property
    def memorization(self) -> Table:
        """One row per validation sample with its distances to the training set."""
        return read_table(self.folder / "memorization.parquet", ("step", "seed", "ratio", "copied"))

    @cached_property
    def config_text(self) -> str:
        """The settings as they were written."""
        return reading(self.folder / "config.yaml", lambda file: file.read_text(encoding="utf-8", errors="replace"))

    @cached_property
    def settings(self) -> SavedConfig:
        """The settings; none where they cannot be read."""
        try:
            return SavedConfig.parse(self.config_text)
        except (Unavailable, KineticError):
            return SavedConfig()

    @cached_property
    def space(self) -> str | None:
        """What the samples of validations are, as kpe.parquet says; None where it does not."""
        try:
            found = read_about(self.folder / "kpe.parquet").get("space")
        except Unavailable:
            found = None
        return "latents" if found is None and self.settings.at("latents") is not None else found

    @property
    def tau(self) -> float:
        """Where early energy turns into late energy in the run's validations."""
        found = number(self.settings.tau)
        return found if math.isfinite(found) else KTS.preset("off").tau

    @property
    def threshold(self) -> float:
        """Below which d₁/d₂ a sample is a copy, by the run's own rule."""
        found = number(self.settings.memorization("threshold"))
        return found if math.isfinite(found) else THRESHOLD

    @cached_property
    def f_mem(self) -> Curve:
        """F_mem by step: fractions from the samples' rows, intervals from metrics.csv where it has them."""
        try:
            metrics = self.metrics
        except Unavailable:
            metrics = Metrics([])
        values = metrics.series("memorization/f_mem")
        if not values:
            values = {step: float(np.mean(c > 0)) for step, c in by_step(self.memorization, "copied").items()}
        bounds = [metrics.series(f"memorization/{end}") for end in ("low", "high")]
        low, high = ([bound.get(step, math.nan) for step in values] for bound in bounds)
        return Curve(list(values), list(values.values()), low, high)

    @cached_property
    def energies(self) -> Curve:
        """Mean energy by step with its quartiles."""
        groups = by_step(self.kpe, "energy")
        kept = {step: v[np.isfinite(v)] for step, v in groups.items()}
        kept = {step: v for step, v in kept.items() if v.size}
        low, high = ([float(np.percentile(v, q)) for v in kept.values()] for q in (25, 75))
        return Curve(list(kept), [float(v.mean()) for v in kept.values()], low, high)

    @cached_property
    def balance(self) -> Table:
        """The energy balance of each validation: over all times (t is NaN), and over bins of t."""
        return read_table(self.folder / "balance.parquet", ("step", "label", "t", *BALANCE))

    @property
    def energy_onset(self) -> float:
        """The step of the onset by energy, NaN without one."""
        try:
            return number(read_json(self.folder / "balance.json").get("step"))
        except Unavailable:
            return math.nan

    @cached_property
    def onset(self) -> dict[str, Any]:
        """The content of onset.json."""
        return read_json(self.folder / "onset.json")
