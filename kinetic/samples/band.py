"""A band of energies: samples inside it are kept, the others discarded."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinetic.errors import KineticError
from kinetic.text import short

Array = NDArray[Any]


@dataclass(frozen=True)
class Band:
    """Energies from `low` to `high`, both included: values, or quantiles in [0, 1] among the samples that are drawn."""

    low: float
    high: float
    quantiles: bool = False

    @classmethod
    def parse(cls, text: str) -> "Band":
        """Read LO:HI, values such as 30:45 or quantiles such as 10%:80%; either end may be left out."""
        ends = [part.strip() for part in text.split(":")]
        wrong = KineticError(
            f"--keep-energy takes LO:HI, values such as 30:45 or quantiles such as 10%:80%, got {text!r:.80}"
        )
        given = [end for end in ends if end]
        if len(ends) != 2 or not given or len({end.endswith("%") for end in given}) > 1:
            raise wrong
        quantiles = given[0].endswith("%")
        try:
            low, high = (float(end.removesuffix("%")) if end else None for end in ends)
        except ValueError:
            raise wrong from None
        scale, edges = (100, (0.0, 100.0)) if quantiles else (1, (-math.inf, math.inf))
        band = cls((edges[0] if low is None else low) / scale, (edges[1] if high is None else high) / scale, quantiles)
        if not band.low < band.high or (quantiles and not 0 <= band.low < band.high <= 1):
            raise KineticError(f"--keep-energy {text:.80} is empty: the second end has to be larger, and at most 100%")
        return band

    @property
    def text(self) -> str:
        """As it is written on a command line."""
        if self.quantiles:
            return f"{100 * self.low:g}%:{100 * self.high:g}%"
        return ":".join("" if math.isinf(end) else f"{end:g}" for end in (self.low, self.high))

    def limits(self, energies: Array) -> tuple[float, float]:
        """The band in values, by energies [N]; what is not finite does not count. NaN where nothing does."""
        if not self.quantiles:
            return self.low, self.high
        known = energies[np.isfinite(energies)]
        if not len(known):
            return math.nan, math.nan
        low, high = np.quantile(known, [self.low, self.high])
        return float(low), float(high)

    def keeps(self, energies: Array) -> Array:
        """Which of energies [N] lie inside, bool [N]."""
        low, high = self.limits(energies)
        return np.isfinite(energies) & (energies >= low) & (energies <= high)

    def words(self, energies: Array) -> str:
        """The band in values, for people."""
        low, high = self.limits(energies)
        span = f"{short(low)} to {short(high)}" if math.isfinite(low) and math.isfinite(high) else self.text
        return f"{span} ({self.text})" if self.quantiles else span
