"""What a study by deciles of energy found, in tables, pictures and words."""

import math
from collections.abc import Mapping, Sequence

from kinetic.metrics.statistics import Estimate
from kinetic.plots import deciles_figure
from kinetic.report.findings import Cell, Findings, Shown, Table
from kinetic.studies.goldilocks import Verdict
from kinetic.studies.qualities import Judge
from kinetic.studies.subject import Subject
from kinetic.text import percent, short

SHARES = ("F_mem", "precision", "recall")
FIGURES = ("F_mem", "fd", "precision")  # that are drawn


def findings_of(
    subject: Subject,
    rows: Sequence[Mapping[str, Cell]],
    verdict: Verdict,
    *,
    energy: Estimate | None,
    judge: Judge | None,
    missing: Sequence[str],
    command: str,
) -> Findings:
    """Put together the deciles, and what keeping a band of them is worth; `command` draws from the band, `energy` is
    the AUROC of energy for copies."""
    quality = {} if judge is None else {"quality": judge.text()}
    return Findings(
        title=f"Quality and copies by energy of {subject.origin.name}",
        says=[*_says(verdict, command), *_copies(rows, energy), *missing],
        table=Table(rows=rows, caption="Deciles of energy, as many samples each, so that fd compares.", shares=SHARES),
        more={} if verdict.band is None else {"band": _band(verdict)},
        protocol=subject.protocol(**quality),
        pictures=_picture(rows, verdict),
        space=subject.origin.field.space,
    )


def _band(found: Verdict) -> Table:
    """The band beside as many samples at random."""
    assert found.band is not None
    inside: dict[str, Cell] = {"samples": f"energies {found.band.text}", "count": found.kept, "F_mem": found.f_mem[1]}
    other: dict[str, Cell] = {"samples": "as many at random", "count": found.kept, "F_mem": found.f_mem[0]}
    caption = "The band, on the seeds that it was not chosen on; intervals are what chance leaves a random choice."
    return Table(
        rows=[{**inside, **(found.inside or {})}, {**other, **(found.random or {})}], caption=caption, shares=SHARES
    )


def _says(found: Verdict, command: str) -> list[str]:
    if found.band is None:
        return ["No band of energies is recommended: every one costs more quality than is allowed."]
    fall = "copies are not known" if found.fall is None else _fall(found)
    if found.recommended:
        return [
            f"Keep energies {found.band.text}: {fall}. Draw from it with `{command} --keep-energy {found.band.text}`."
        ]
    why = _why_not(found)
    return [f"No band of energies is recommended. The best, {found.band.text}, {why}: {fall}."]


def _fall(found: Verdict) -> str:
    assert found.fall is not None
    ends = f"{100 * found.fall.low:.1f} to {100 * found.fall.high:.1f}"
    return (
        f"F_mem {percent(found.f_mem[1])} inside against {percent(found.f_mem[0])} of all, a fall by "
        f"{100 * found.fall.value:.1f} points ({ends}), on seeds that it was not chosen on"
    )


def _why_not(found: Verdict) -> str:
    if found.fall is None or found.fall.low <= 0:
        return "does not certainly have fewer copies"
    return "has a larger Fréchet distance than as many samples at random"


def _copies(rows: Sequence[Mapping[str, Cell]], energy: Estimate | None) -> list[str]:
    """Whether copies have high energies, as the paper expects; `energy` is how well it tells them."""
    ends = [row.get("F_mem") for row in (rows[0], rows[-1])]
    low, high = (end.value if isinstance(end, Estimate) else math.nan for end in ends)
    if energy is None or math.isnan(energy.value) or math.isnan(low):
        return []
    agrees = "agrees" if energy.low > 0.5 else "says the opposite" if energy.high < 0.5 else "does not show it"
    return [
        f"F_mem is {percent(low)} in the lowest decile and {percent(high)} in the highest; energy tells copies with an "
        f"AUROC of {energy.value:.2f} ({energy.low:.2f} to {energy.high:.2f}). The paper (arXiv 2602.07928) expects "
        f"copies at the highest energies: this run {agrees}."
    ]


def _picture(rows: Sequence[Mapping[str, Cell]], verdict: Verdict) -> dict[str, Shown]:
    known = [name for name in FIGURES if all(name in row for row in rows)]
    if not known:
        return {}
    energies = [_number(row["energy_from"]) for row in rows[:1]] + [_number(row["energy_to"]) for row in rows[1:]]
    values = {name: [_bounds(row[name]) for row in rows] for name in known}
    band = None if verdict.band is None or not verdict.recommended else (verdict.band.low, verdict.band.high)
    said = f"{', '.join(known)} by decile of energy" + ("; the recommended band is shaded." if band else ".")
    figure = deciles_figure(values, shares=SHARES, band=band)
    return {
        "deciles": Shown(
            figure=figure, alt=said, caption=f"{said} Lowest to highest: {short(energies[0])} to {short(energies[-1])}."
        )
    }


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else math.nan


def _bounds(cell: Cell) -> tuple[float, float, float]:
    if isinstance(cell, Estimate):
        return cell.value, cell.low, cell.high
    return _number(cell), math.nan, math.nan
