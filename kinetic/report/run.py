"""The report of a training run: runs/NAME/report.html, from whatever files the run has written so far."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kinetic.errors import KineticError
from kinetic.metrics.statistics import finite_mean
from kinetic.plots import (
    Curve,
    Profile,
    energy_ridge,
    energy_scatter,
    loss_curves,
    memorization_curve,
    power_profiles,
)
from kinetic.report.balance import balance_section
from kinetic.report.folder import Run
from kinetic.report.page import Section, chart, paragraph, picture, render, table, tiles
from kinetic.report.sources import Unavailable, by_step, number, read_pictures, read_table
from kinetic.report.studies import studies_section
from kinetic.report.words import energy_words, imported_words, onset_words, where
from kinetic.store.files import write_text
from kinetic.text import percent, short
from kinetic.units import energies_of

LOSSES = 12  # curves in one figure


def write_report(run_dir: str | Path) -> Path:
    """Write `run_dir`/report.html from the files found there and return its path; what is missing is named in the page.

    Raises ValueError where `run_dir` is no folder.
    """
    folder = Path(run_dir).resolve()
    if not folder.is_dir():
        raise KineticError(f"no run folder at {run_dir}: train first, or name a folder under runs/")
    run = Run(folder)
    parts = (
        Section("summary", "Summary", lambda: _summary(run)),
        Section("loss", "Loss", lambda: _loss(run)),
        Section("memorization", "Copying and energy", lambda: _memorization(run)),
        Section("balance", "Energy balance", lambda: balance_section(run)),
        Section("energies", "Energy distributions", lambda: _ridge(run)),
        Section("power", "Power over time", lambda: _power(run)),
        Section("scatter", "Energy against distance", lambda: _scatter(run)),
        Section("signals", "Signals of copying", lambda: _signals(run)),
        Section("galleries", "Most-copied samples", lambda: _galleries(run)),
        Section("samples", "Samples", lambda: _samples(run)),
        Section("validations", "Validations", lambda: _validations(run)),
        *studies_section(folder),
        Section("settings", "Settings", lambda: f'<pre tabindex="0"><code>{escape(run.config_text)}</code></pre>'),
    )
    target = folder / "report.html"
    with energies_of(run.space):
        page = render(f"Run {folder.name}", "Kinetic path energy and memorisation of a training run", parts)
    write_text(target, page)
    return target


def _attempt(run: Run, name: str) -> Any:
    """Get one of the run's tables, or None where it is unavailable."""
    try:
        return getattr(run, name)
    except Unavailable:
        return None


def _last(curve: Curve | None) -> tuple[float, float]:
    """Step and value of the last finite point of a curve, or NaNs."""
    points = [(s, v) for s, v in zip(curve.steps, curve.value, strict=True) if math.isfinite(v)] if curve else []
    return points[-1] if points else (math.nan, math.nan)


def _summary(run: Run) -> str:
    if words := imported_words(run.settings.at("imported")):
        return words
    kpe, f_mem, onset = (_attempt(run, name) for name in ("kpe", "f_mem", "onset"))
    step, fraction = _last(f_mem)
    try:
        words = onset_words(run.onset, step, fraction, threshold=run.threshold)
    except Unavailable as reason:
        words = paragraph("When the model starts to copy its training images, if it does, is not known here.", "lead")
        words += paragraph(f"{reason} It is written where a training reference and held-out images are at hand.")
    if kpe is not None:
        late = by_step(kpe, "late_fraction") if "late_fraction" in kpe else {}
        words += energy_words(by_step(kpe, "energy"), late)
    if kpe is None and f_mem is None and onset is None and _attempt(run, "metrics") is None:
        raise Unavailable("this run has written no measurements yet.")
    return tiles(_tiles(onset, _attempt(run, "energies"), step, fraction, kpe)) + words


def _tiles(onset: Any, energies: Curve | None, step: float, fraction: float, kpe: Any) -> list[tuple[str, str, str]]:
    at = number(onset.get("step")) if onset else math.nan
    kpe_step, mean = _last(energies)
    count = len(np.unique(kpe["step"])) if kpe is not None else 0
    found = f"step {at:,.0f}" if math.isfinite(at) else "not known" if onset is None else "none so far"
    return [
        ("Onset of copying", found, "first F_mem above held-out images"),
        ("F_mem", percent(fraction), f"at {where(step)}" if math.isfinite(step) else "not measured"),
        ("Mean energy", short(mean), f"at {where(kpe_step)}" if math.isfinite(kpe_step) else "not measured"),
        ("Validations", f"{count:,}", "with energies of the same seeds"),
    ]


def _loss(run: Run) -> str:
    names = [name for name in run.metrics.names if name.endswith("/loss")][:LOSSES]
    series = {name: run.metrics.series(name) for name in names}
    curves = {name: (list(s), list(s.values())) for name, s in series.items() if s}
    if not curves:
        raise Unavailable("metrics.csv holds no losses yet.")
    ends = "; ".join(f"{name} {short(run.metrics.last(name))}" for name in curves)
    return chart(
        loss_curves(curves), "loss", f"Losses over training steps. Last values: {ends}.", f"Last values: {ends}."
    )


def memorization_figure(run: Run) -> Figure:
    """Draw F_mem with its interval, the null and the onset over the energies of a run; Unavailable without both."""
    energies = _attempt(run, "energies")
    f_mem = _attempt(run, "f_mem")
    if f_mem is None and energies is None:
        raise Unavailable("neither kpe.parquet nor any F_mem is here.")
    onset, step = _onset(run)
    null = (_null(run, "null", onset.get("null_f_mem")), _null(run, "null_high", onset.get("null_high")))
    empty = Curve([], [], [], [])
    copying, by_energy = (one if math.isfinite(one) else None for one in (step, _energy_onset(run)))
    return memorization_curve(f_mem or empty, energies, null=null, onset=copying, energy_onset=by_energy)


def _onset(run: Run) -> tuple[dict[str, Any], float]:
    """What onset.json holds, and the step of the onset, NaN without one."""
    onset = _attempt(run, "onset") or {}
    return onset, number(onset.get("step"))


def _energy_onset(run: Run) -> float:
    """The step of the onset by energy, NaN without one."""
    return number(_attempt(run, "energy_onset"))


def _memorization(run: Run) -> str:
    figure = memorization_figure(run)
    step, by_energy = _onset(run)[1], _energy_onset(run)
    last_step, value = _last(_attempt(run, "f_mem"))
    alt = f"F_mem over training steps, with the mean energy below. F_mem is {percent(value)} at step {last_step:,.0f}."
    mark = f" The onset is marked at step {step:,.0f}." if math.isfinite(step) else " No onset is marked."
    mark += f" That by energy is marked at step {by_energy:,.0f}." if math.isfinite(by_energy) else ""
    said = (
        "The grey band ends at the upper limit of F_mem for held-out real images: the level that no copying explains."
    )
    return chart(figure, "memorization", alt + mark, said + mark)


def _null(run: Run, name: str, recorded: Any) -> float:
    """The held-out level from onset.json or else, as before an onset, from metrics.csv."""
    known = number(recorded)
    metrics = _attempt(run, "metrics")
    return known if math.isfinite(known) or metrics is None else metrics.last(f"memorization/{name}")


def _ridge(run: Run) -> str:
    groups: dict[Any, Any] = dict(by_step(run.kpe, "energy"))
    alt = f"Densities of the samples' energies at {len(groups)} validations, the earliest on top. "
    ends = [f"mean {short(finite_mean(groups[step]))} at step {step:,}" for step in (min(groups), max(groups))]
    caption = "One density per validation, each scaled to the same height; the same seeds every time."
    return chart(energy_ridge(groups), "energies", alt + "; ".join(ends), caption)


def _power(run: Run) -> str:
    rows = read_table(run.folder / "profiles.parquet", ("step", "t", "mean", "q25", "q75"))
    columns = {name: by_step(rows, name) for name in ("t", "mean", "q25", "q75")}
    profiles = {step: Profile(*(columns[name][step] for name in columns)) for step in columns["t"]}
    figure = power_profiles(profiles, tau=run.tau)
    caption = (
        "Power of the field along the path, mean over the samples: where on the way from noise to data the energy goes."
    )
    return chart(figure, "power", f"Mean power over time at {len(profiles)} validations.", caption)


def _scatter(run: Run) -> str:
    step = int(np.max(run.memorization["step"]))
    near = {key: by_step(run.memorization, key)[step] for key in ("seed", "ratio", "copied")}
    energy = by_step(run.kpe, "energy").get(step)
    if energy is None or "seed" not in run.kpe:
        raise Unavailable(f"kpe.parquet has no energies for step {step:,}, the last with distances.")
    by_seed = dict(zip(by_step(run.kpe, "seed")[step].tolist(), energy.tolist(), strict=True))
    matched = [by_seed.get(seed, math.nan) for seed in near["seed"].tolist()]
    figure = energy_scatter(matched, near["ratio"], threshold=run.threshold, copied=near["copied"])
    copies = int(np.sum(near["copied"] > 0))
    alt = f"Energy against d1/d2 of {len(matched)} samples at step {step:,}; {copies} are copies."
    caption = f"Samples of the last validation, step {step:,}. Towards the left: close to one training image alone."
    return chart(figure, "scatter", alt, caption)


def _signals(run: Run) -> str:
    stems = ("rho", "auroc")
    found: dict[str, dict[str, float]] = {stem: {} for stem in stems}
    for name in run.metrics.names:
        for stem in stems:
            if name.startswith(f"memorization/{stem}_"):
                found[stem][name.split("_", 1)[1]] = run.metrics.last(name)
    signals = list(dict.fromkeys([*found["rho"], *found["auroc"]]))
    if not signals:
        raise Unavailable("metrics.csv holds no correlations or AUROCs of signals.")
    rows = [[name.replace("_", " "), *(_signed(found[stem].get(name, math.nan)) for stem in stems)] for name in signals]
    caption = "The last value of each; a dash where it is undefined, as without any copies."
    words = (
        "Signals that come with the trajectory and need no training data. Spearman ρ is their rank correlation with "
        "d₁/d₂; AUROC is how well they tell copies from the rest within one validation (0.5 is chance)."
    )
    return paragraph(words) + table(["signal", "Spearman ρ with d₁/d₂", "AUROC for copies"], rows, caption)


def _signed(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _galleries(run: Run) -> str:
    pictures, left = read_pictures(run.folder / "galleries", most=6)
    if not pictures:
        raise Unavailable("galleries/ holds no pictures yet.")
    newest, *older = (
        picture(p, f"Most-copied samples beside their nearest training images, step {p.step:,}", f"Step {p.step:,}")
        for p in pictures
    )
    more = f"<details><summary>{len(older)} earlier</summary>{''.join(older)}</details>" if older else ""
    return newest + more + _left(left, "galleries/")


def _samples(run: Run) -> str:
    pictures, left = read_pictures(run.folder / "samples")
    if not pictures:
        raise Unavailable("samples/ holds no pictures yet.")
    shown = (picture(p, f"Samples at step {p.step:,}", f"Step {p.step:,}") for p in reversed(pictures))
    return f'<div class="reel">{"".join(shown)}</div>' + _left(left, "samples/")


def _left(count: int, folder: str) -> str:
    return paragraph(f"{count} more in `{folder}`, left out to keep this page small.", "soft") if count else ""


def _validations(run: Run) -> str:
    kpe, f_mem = run.kpe, _attempt(run, "f_mem")
    energy, epochs = by_step(kpe, "energy"), by_step(kpe, "epoch") if "epoch" in kpe else {}
    late = by_step(kpe, "late_fraction") if "late_fraction" in kpe else {}
    copied = {s: v for s, *v in zip(f_mem.steps, f_mem.value, f_mem.low, f_mem.high, strict=True)} if f_mem else {}
    rows = []
    for step, values in energy.items():
        fraction, low, high = copied.get(step, [math.nan] * 3)
        interval = f"{percent(low)} to {percent(high)}" if math.isfinite(low) else "–"
        epoch = f"{epochs[step][0]:,.0f}" if step in epochs and np.isfinite(epochs[step][0]) else "–"
        row = [f"{step:,}", epoch, f"{len(values):,}", f"{np.sum(~np.isfinite(values)):,}", short(finite_mean(values))]
        rows.append([*row, percent(finite_mean(late.get(step, []))), percent(fraction), interval])
    onset = _onset(run)[1]
    return table(_HEAD, rows, "One row per validation; the onset stands out.", marked=_index(list(energy), onset))


_HEAD = ["step", "epoch", "samples", "not finite", "mean energy", "late fraction", "F_mem", "95 % interval"]


def _index(steps: Sequence[int], step: float) -> int | None:
    return steps.index(int(step)) if math.isfinite(step) and int(step) in steps else None
