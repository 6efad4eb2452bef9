"""A set of samples in a few numbers."""

import numpy as np

from kinetic.samples.table import SampleTable

QUANTILES = (5, 25, 50, 75, 95)


def summary(table: SampleTable) -> dict[str, float]:
    """Moments and quantiles of the finite samples' energies, and the mean of every other column."""
    numbers = {"kpe/nonfinite": float((~table.finite).sum())}
    energy = table.finite_column("energy")
    if not len(energy):
        return numbers
    numbers |= {"kpe/mean": float(energy.mean()), "kpe/std": float(energy.std())}
    numbers |= {f"kpe/q{q:02d}": float(np.percentile(energy, q)) for q in QUANTILES}
    return numbers | {f"kpe/{name}": table.mean(name) for name in table.columns if name != "energy"}
