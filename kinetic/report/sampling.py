"""The report of a sampling run or a comparison: report.html beside energies.csv, grid.png and sample.yaml."""

import math
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from kinetic.errors import KineticError
from kinetic.metrics.statistics import THRESHOLD, finite_mean
from kinetic.plots import energy_ridge, settings_figure
from kinetic.report.page import Section, chart, paragraph, picture, render, table
from kinetic.report.sources import Unavailable, number, read_json, read_picture, read_rows, reading
from kinetic.report.words import copy_rule
from kinetic.store.files import write_text
from kinetic.store.plain import read_yaml
from kinetic.text import percent, short
from kinetic.units import energies_of, energy_unit

_NAMES = {"field_energy": "of the field", "drift": "endpoint drift"}
# Columns of energies.csv that no trajectory brings.
_OTHERS = (
    "setting",
    "seed",
    "label",
    "nfe",
    "moved",
    "d1",
    "d2",
    "ratio",
    "copied",
    "neighbor",
    "ratio_cleaned",
    "copied_cleaned",
)


DRAWN = 40  # settings that a figure shows


class Samples:
    """The files of one folder of samples, each read once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def energies(self) -> dict[str, list[dict[str, str]]]:
        """Rows of energies.csv by setting, in order of appearance; a plain sampling run is one setting, `samples`."""
        groups: dict[str, list[dict[str, str]]] = {}
        for row in read_rows(self.folder / "energies.csv", ("seed", "energy")):
            groups.setdefault(row.get("setting", "samples"), []).append(row)
        return groups

    @cached_property
    def measured(self) -> list[str]:
        """The columns of energies.csv that were measured on the way, in their order."""
        rows = next(iter(self.energies.values()))
        return [name for name in rows[0] if name not in _OTHERS]

    @cached_property
    def memorization(self) -> dict[str, Any]:
        """The content of memorization.json."""
        return read_json(self.folder / "memorization.json")

    @property
    def threshold(self) -> float:
        """Below which d₁/d₂ a sample counted as a copy."""
        try:
            found = number(self.memorization.get("threshold"))
        except Unavailable:
            return THRESHOLD
        return found if math.isfinite(found) else THRESHOLD

    @property
    def space(self) -> str | None:
        """What samples are, as sample.yaml says; None where it does not."""
        try:
            found = read_yaml(self.folder / "sample.yaml")
        except (KineticError, OSError):
            return None
        return str(found.get("space")) if isinstance(found, dict) else None

    @cached_property
    def compare(self) -> list[dict[str, str]]:
        """Rows of compare.csv, one per setting."""
        return read_rows(self.folder / "compare.csv", ("setting",))


def write_sampling_report(out_dir: str | Path) -> Path:
    """Write `out_dir`/report.html from the files that sampling left there and return its path.

    A folder with compare.csv is reported as a comparison of settings. Raises ValueError where `out_dir` is no folder.
    """
    folder = Path(out_dir).resolve()
    if not folder.is_dir():
        raise KineticError(f"no folder of samples at {out_dir}: draw some first with sample.py")
    samples = Samples(folder)
    comparing = (folder / "compare.csv").is_file()
    compared = (
        Section("comparison", "Settings side by side", lambda: _comparison(samples)),
        *_pareto(samples),
        Section("same-seeds", "The same seeds", lambda: _picture(samples, "compare.png", "Each row one setting")),
    )
    images = Section("images", "Samples", lambda: _picture(samples, "grid.png", "Generated samples"))
    energies = Section("energies", "Energies", lambda: _energies(samples))
    settings = Section("settings", "Settings", lambda: _settings(samples))
    subtitle = "The same seeds under several settings" if comparing else "Generated samples and their energies"
    names = {path.name for path in folder.iterdir()}
    copies = Section("copies", "Copies of training images", lambda: _copies(samples))
    signals = Section("signals", "Signals of copying", lambda: _signals(samples))
    found = [section for file, section in (("memorization.json", copies), ("signals.csv", signals)) if file in names]
    rest = (*found, settings)
    sections = (*compared, energies, *rest) if comparing else (energies, images, *rest)
    with energies_of(samples.space):
        page = render(f"Samples in {folder.name}", subtitle, sections)
    target = folder / "report.html"
    write_text(target, page)
    return target


def _pareto(samples: Samples) -> tuple[Section, ...]:
    """The picture of copies against quality, where one was drawn."""
    if not (samples.folder / "pareto.png").is_file():
        return ()
    about = "Copies against quality: settings and controls by F_mem and Fréchet distance, lower left is better"
    return (Section("pareto", "Copies against quality", lambda: _picture(samples, "pareto.png", about, card=True)),)


def _column(rows: list[dict[str, str]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([number(row.get(name)) for row in rows])


def _comparison(samples: Samples) -> str:
    rows = samples.compare
    names = [row["setting"] for row in rows]
    columns = {name: _column(rows, name) for name in ("energy", "f_mem", "low", "high")}
    values = (columns[name][:DRAWN] for name in ("energy", "f_mem", "low", "high"))
    figure = settings_figure(names[:DRAWN], *values)
    said = "; ".join(
        f"{name}: F_mem {percent(f)}, mean energy {short(e)}"
        for name, f, e in zip(names[:DRAWN], columns["f_mem"], columns["energy"], strict=False)
    )
    return (
        paragraph(copy_rule(samples.threshold))
        + chart(figure, "comparison", said)
        + table([*_HEAD, *_more_names(rows)], [[*_row(row), *_more(row)] for row in rows], _CAPTION)
        + "".join(paragraph(f"{row['setting']}: {row['verdict']}.") for row in rows if row.get("verdict"))
    )


_HEAD = [
    "setting",
    "samples",
    "mean energy",
    "of the field",
    "late fraction",
    "F_mem",
    "95 % interval",
    "moved from off",
]
_CAPTION = "The same seeds under every setting. Last column: mean distance of the images from those of off, in pixels."


def _row(row: dict[str, str]) -> list[str]:
    low, high = number(row.get("low")), number(row.get("high"))
    interval = f"{percent(low)} to {percent(high)}" if math.isfinite(low) else "–"
    energy, field, residual = (short(number(row.get(name))) for name in ("energy", "field_energy", "residual"))
    shares = [percent(number(row.get(name))) for name in ("late_fraction", "f_mem")]
    return [row["setting"], row.get("n", "–"), energy, field, *shares, interval, residual]


def _figures(row: dict[str, str]) -> list[str]:
    """Names of the further figures of a comparison: NAME, which NAME_low and NAME_high follow."""
    return [name for name in row if f"{name}_low" in row and f"{name}_high" in row]


def _more_names(rows: list[dict[str, str]]) -> list[str]:
    return [name.replace("_", " ").replace("f mem", "F_mem") for name in _figures(rows[0])] if rows else []


def _more(row: dict[str, str]) -> list[str]:
    """Cells of the further figures, with their intervals where they have one."""
    cells = []
    for name in _figures(row):
        form = percent if name.startswith("f_mem") else short
        value, low, high = (number(row.get(f"{name}{end}")) for end in ("", "_low", "_high"))
        cells.append(f"{form(value)} ({form(low)} to {form(high)})" if math.isfinite(low) else form(value))
    return cells


def _energies(samples: Samples) -> str:
    groups = samples.energies
    energy = {name: _column(rows, "energy") for name, rows in groups.items()}
    alt = "; ".join(
        f"{name}: mean energy {short(finite_mean(values))}" for name, values in list(energy.items())[:DRAWN]
    )
    try:
        if len(groups) > 1:
            raise Unavailable("one picture cannot tell the settings apart.")
        figure = _picture(samples, "energies.png", f"Distribution of energies, and power over time. {alt}", card=True)
    except Unavailable:
        figure = chart(energy_ridge(energy, ylabel="setting" if len(groups) > 1 else ""), "energies", alt)
    names = samples.measured
    rows = [[name, *(_spread(_column(rows, key)) for key in names)] for name, rows in groups.items()]
    caption = f"Mean ± standard deviation over the samples, energies in {energy_unit()}."
    return (
        figure
        + table(["", *(_NAMES.get(name, name.replace("_", " ")) for name in names)], rows, caption)
        + _broken(groups)
    )


def _spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    kept = values[np.isfinite(values)]
    return f"{short(float(kept.mean()), 3)} ± {short(float(kept.std()), 2)}" if kept.size else "–"


def _broken(groups: dict[str, list[dict[str, str]]]) -> str:
    """Name the seeds whose energy is not finite."""
    text = ""
    for name, rows in groups.items():
        seeds = [row["seed"] for row in rows if not math.isfinite(number(row["energy"]))]
        if seeds:
            listed = ", ".join(seeds[:20]) + (" and others" if len(seeds) > 20 else "")
            text += paragraph(f"{len(seeds)} of {len(rows)} ({name}) did not stay finite: seeds {listed}.")
    return text


def _copies(samples: Samples) -> str:
    """F_mem of every setting beside the null, and by which rule."""
    found = samples.memorization
    null, rows = found.get("null"), []
    for name, one in (found.get("settings") or {}).items():
        low, high = number(one.get("low")), number(one.get("high"))
        counts = f"{number(one.get('copied')):,.0f} of {number(one.get('total')):,.0f}"
        rows.append([name, counts, percent(number(one.get("f_mem"))), f"{percent(low)} to {percent(high)}"])
    if not isinstance(null, dict):
        said = "No held-out images were at hand to say what real images would count as."
    else:
        count, share, high = (number(null.get(name)) for name in ("count", "f_mem", "high"))
        said = f"Of {count:,.0f} held-out real images {percent(share)} would count (upper limit {percent(high)})."
    space = str(found.get("space") or "")
    said = f"Distances are measured in {space:.80}. {said}" if space not in ("", "pixels", "points") else said
    caption = "Fraction of samples that are copies, with its 95 % interval."
    return paragraph(f"{copy_rule(samples.threshold)} {said}") + table(
        ["", "copies", "F_mem", "interval"], rows, caption
    )


def _signals(samples: Samples) -> str:
    """How well each measured column picks out the copies."""
    rows = []
    for row in read_rows(samples.folder / "signals.csv", ("setting", "signal", "auroc")):
        small = " (small)" if row.get("sign") == "-1" else ""
        figures = [_two(row.get("auroc")), _two(row.get("rho"))]
        rows.append([row["setting"], f"{row['signal'].replace('_', ' ')}{small}", *figures])
    words = (
        "AUROC is the chance that a copy has a larger value than another sample (a smaller one where it says small); "
        "0.5 says nothing. ρ is the rank correlation with d₁/d₂. A dash: undefined, as without copies."
    )
    return paragraph(words) + table(["setting", "signal", "AUROC for copies", "Spearman ρ with d₁/d₂"], rows, "")


def _two(text: str | None) -> str:
    return f"{value:.2f}" if math.isfinite(value := number(text)) else "–"


def _picture(samples: Samples, name: str, alt: str, *, card: bool = False) -> str:
    return picture(read_picture(samples.folder / name, 1_500_000), alt, card=card)


def _settings(samples: Samples) -> str:
    text = reading(samples.folder / "sample.yaml", lambda file: file.read_text(encoding="utf-8", errors="replace"))
    if not text.strip():
        raise Unavailable("sample.yaml is empty.")
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
