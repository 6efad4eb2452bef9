"""The energy balance of a run: what its samples spend, and what held-out and training images bear out."""

import math
from typing import Any

import numpy as np

from kinetic.plots import BalanceCurves, balance_over_time, balance_over_training
from kinetic.report.folder import Run
from kinetic.report.page import chart, paragraph, table
from kinetic.report.sources import Unavailable
from kinetic.text import short
from kinetic.units import energy_unit

COLUMNS = ("power", "conditional", "held_out", "train", "excess_low", "excess_high")


def balance_section(run: Run) -> str:
    """Both charts, a sentence on the onset, and the numbers of each validation; Unavailable without any."""
    rows = {
        name: np.asarray(values) for name, values in run.balance.items() if name in (*COLUMNS, "step", "label", "t")
    }
    rows = {name: values.astype(np.float64) for name, values in rows.items()}
    whole = np.isnan(rows["label"])
    overall, timed = whole & np.isnan(rows["t"]), whole & ~np.isnan(rows["t"])
    if not overall.any():
        raise Unavailable("balance.parquet has no rows over all times.")
    order = np.argsort(rows["step"][overall], kind="stable")
    training = BalanceCurves(*(rows[name][overall][order] for name in ("step", *COLUMNS)))
    onset = run.energy_onset
    known = math.isfinite(onset)
    over_training = chart(
        balance_over_training(training, onset=onset if known else None),
        "balance-training",
        f"Energy spent by samples and balances of images at {len(training.at)} validations. {_words(training, onset)}",
        "The balance of images is A less half the loss on them. Samples of a perfect field spend the balance of "
        "held-out images; what they spend beyond it (filled) those images do not bear out. Intervals are at 95 %.",
    )
    curves = {}
    for step in np.unique(rows["step"][timed]):
        here = timed & (rows["step"] == step)
        along = np.argsort(rows["t"][here])
        curves[int(step)] = BalanceCurves(*(rows[name][here][along] for name in ("t", *COLUMNS)))
    over_time = ""
    if curves:
        over_time = chart(
            balance_over_time(curves),
            "balance-time",
            f"Power over time at {len(curves)} validations, with the balances of held-out and of training images.",
            "The same at each time on the way from noise to data, at chosen validations.",
        )
    return paragraph(_words(training, onset)) + over_training + over_time + _table(training)


def _words(curves: BalanceCurves, onset: float) -> str:
    last = f"At step {curves.at[-1]:,.0f} they spend {short(curves.power[-1])}, and held-out images bear out "
    last += f"{short(curves.held_out[-1])}."
    if not math.isfinite(onset):
        return (
            "There is no onset by energy, from which on samples would spend what training images bear out and held-out "
            f"ones do not. {last}"
        )
    return (
        f"From step {onset:,.0f} on samples spend what training images bear out and held-out ones do not: the onset by "
        f"energy. {last}"
    )


def _table(curves: BalanceCurves) -> str:
    head = ["step", "spent", "A", "held-out balance", "training balance", "excess", "95 % interval"]
    lines: list[list[str]] = []
    for place, step in enumerate(curves.at):
        row: list[Any] = [values[place] for values in (curves.power, curves.conditional, curves.held_out, curves.train)]
        excess = row[0] - row[2]
        interval = f"{short(curves.low[place])} to {short(curves.high[place])}"
        lines.append([f"{step:,.0f}", *map(short, row), short(excess), interval])
    return table(head, lines, f"Energies in {energy_unit()}.")
