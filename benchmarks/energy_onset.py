"""How often the energy balance raises a false alarm: a perfect field, and runs that do not memorise.

    uv run benchmarks/energy_onset.py [--repeats 400] [RUN ...]

A perfect field of Gaussian data N(0.7, 0.5² I), D = 64, 256 held-out images and 256 samples each time, as a validation
of the default run has them: how often the 95 % interval of the excess lies above 0 (2.5 % if it is what it says), and
below. Of each RUN: the validations of its balance.parquet whose interval lies above 0, those where training images bear
it out besides, and the onset by the rule.
"""

import argparse
import math

import pyarrow.parquet as pq
import torch
from torch import Tensor

from kinetic.flow.integration import integrate
from kinetic.flow.paths import LINEAR
from kinetic.memorization.balance import Spent, energy_balance
from kinetic.memorization.energy_onset import Excess, find_energy_onset
from kinetic.memorization.image_terms import Images, balance_terms, stratified_times
from kinetic.tensors import seeded_noise, squared_norm

MU, S, D, COUNT = 0.7, 0.5, 64, 256


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The optimal field of N(μ, s²I)."""
    t = t.view(-1, 1)
    return MU + (t * S**2 - (1 - t)) / ((1 - t) ** 2 + (t * S) ** 2) * (x - t * MU)


def excess(repeat: int) -> tuple[float, float]:
    """Interval of the excess with images, noise and samples of one repeat."""
    first = 10**6 * (repeat + 1)
    x1 = MU + S * seeded_noise(range(first, first + COUNT), (D,))
    x0 = seeded_noise(range(first + COUNT, first + 2 * COUNT), (D,))
    rows = balance_terms(velocity, x0, x1, stratified_times(COUNT), path=LINEAR, index=torch.arange(COUNT))
    start = seeded_noise(range(first + 2 * COUNT, first + 3 * COUNT), (D,))
    drawn = integrate(velocity, start, steps=100, method="midpoint")
    spent = Spent(
        energy=drawn.energy.double().numpy(),
        start=(squared_norm(start) - D).double().numpy(),
        times=drawn.times.numpy(),
        power=drawn.power.numpy(),
        labels=torch.full((COUNT,), -1).numpy(),
    )
    found = energy_balance(spent, Images.of([rows]))
    return found.excess_low, found.excess_high


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders")
    parser.add_argument("--repeats", type=int, default=400)
    options = parser.parse_args()
    if options.repeats:
        found = [excess(repeat) for repeat in range(options.repeats)]
        above, below = (sum(cond) / len(found) for cond in ([low > 0 for low, _ in found], [hi < 0 for _, hi in found]))
        error = math.sqrt(0.025 * 0.975 / len(found))
        print(f"perfect field, {len(found)} validations: above 0 in {above:.1%}, below in {below:.1%} (± {error:.1%})")
    for run in options.runs:
        rows = pq.read_table(f"{run}/balance.parquet").to_pylist()
        whole = [row for row in rows if row["t"] is None and row["label"] is None]
        names = ("step", "excess", "excess_low", "excess_high", "gap_low")
        history = [Excess(*(row[name] for name in names)) for row in whole]
        excessive = [one.step for one in history if one.low > 0]
        alarms = [one.step for one in history if one.memorizing]
        onset = find_energy_onset(history)
        found = f"above 0: {excessive}; memorising: {alarms}; onset {onset and onset.step}"
        print(f"{run}: of {len(history)} validations {found}")


if __name__ == "__main__":
    main()
