"""The end of `sample`: from what was drawn to files, a report, and a few lines for the terminal."""

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinetic.advice import command
from kinetic.cli.composed_options import COMPOSED, settings_named
from kinetic.errors import KineticError
from kinetic.flow.seeds import seed_text
from kinetic.memorization.cleaning import Cleaned
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.statistics import Signal
from kinetic.models.autoencoder import Decode
from kinetic.plots import pareto_figure, save
from kinetic.report import write_sampling_report
from kinetic.samples.copying import copies_in
from kinetic.samples.drawing import Plan
from kinetic.samples.export import Add, npz_file, png_folder, tar_shards, write_columns, write_csv
from kinetic.samples.figures import POINTS, draw_energies, sample_grid
from kinetic.samples.pictures import Decoded
from kinetic.samples.table import SampleTable
from kinetic.store.files import write_text
from kinetic.studies.compare import Row, comparison_picture, rows_of, table_of, write_copies, write_rows
from kinetic.studies.controls import CHECKPOINT, divided_controls, noise_controls
from kinetic.studies.experiment import Take, collect
from kinetic.studies.qualities import Gathered, Judge, judged_figures, paired_columns, with_quality
from kinetic.studies.setting import Experiment
from kinetic.studies.verdicts import judged, point_of, verdict_lines
from kinetic.text import aligned, cell
from kinetic.units import energies_of, energy_unit, unit_beside

SINGLE = "samples"  # the name of the only setting where nothing is compared


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was drawn, and what is to be made of it.

    Attributes:
        options: of the command line.
        job: what was drawn.
        plan: in which parts it lies on disk.
        training_set: to compare the samples with, where there is one.
        controlled: whether controls belong beside a comparison.
        cleaned: what cleans samples and training images before they are compared again.
        judge: of quality.
        decode: makes pictures of latents; None where samples are shown as they are.
    """

    options: Any
    job: Experiment
    plan: Plan
    training_set: TrainingSet | None
    controlled: bool
    cleaned: Cleaned | None = None
    judge: Judge | None = None
    decode: Decode | None = None


def finish(work: Work) -> None:
    """Write the files and say what there is, with energies in the unit of the samples."""
    with energies_of(work.job.origin.field.space):
        _finish(work)


def _finish(work: Work) -> None:
    folder, comparing = work.job.folder, work.options.compare is not None
    tables = _compare(work) if comparing else _single(work)
    if work.training_set is not None:
        signals = write_copies(folder, tables, work.training_set)
        if not comparing and any(signal.auroc is not None for signal in signals[SINGLE]):
            print(_signal_table(signals[SINGLE]))
    write_sampling_report(folder)
    for setting in work.plan.settings:
        _tell_broken(setting, tables[setting])
    print(f"Look:  {os.path.relpath(folder)}/report.html")
    print(f"Next:  {_next(work.options, work.plan)}")


def _single(work: Work) -> dict[str, SampleTable]:
    """Write the files of one setting, and say what they show."""
    folder, field = work.job.folder, work.job.origin.field
    points = field.space == "points" and work.training_set is not None
    background = work.training_set.first(POINTS) if points and work.training_set else None
    grid = sample_grid(folder / "grid.png", field.space, background, work.decode)
    files = [*_files(work), _of_images(grid)]
    tables = collect(work.job, work.plan, training_set=work.training_set, files=files)
    table = tables[SINGLE]
    write_csv(folder / "energies.csv", tables)
    draw_energies(folder / "energies.png", table, work.job.samplers[SINGLE])
    print(_energies(table))
    if work.training_set is not None:
        print(_copies(table, work.training_set))
    return tables


def _files(work: Work) -> list[AbstractContextManager[Take]]:
    """The files of samples that were asked for: pictures are those of decoded latents, which are kept beside them."""
    folder, formats, count = work.job.folder, work.options.formats, len(work.plan.chosen)
    shown = None if work.decode is None else Decoded(work.decode)
    found: list[AbstractContextManager[Take]] = []
    if "npz" in formats:
        found.append(_of_parts(npz_file(folder / "samples.npz", count=count), shown))
    if "npz" in formats and shown is not None:
        found.append(_of_parts(npz_file(folder / "latents.npz", count=count)))
    if "png" in formats and (shown is not None or work.job.origin.field.space == "pixels"):
        found.append(_of_parts(png_folder(folder / "images"), shown))
    if "shards" in formats:
        found.append(_of_parts(tar_shards(folder / "shards")))
    return found


@contextmanager
def _of_parts(file: AbstractContextManager[Add], shown: Decoded | None = None) -> Iterator[Take]:
    with file as add:
        yield lambda batch, images: add(batch[SINGLE] if shown is None else shown(batch[SINGLE]))


@contextmanager
def _of_images(grid: AbstractContextManager) -> Iterator[Take]:
    with grid as add:
        yield lambda batch, images: add(images[SINGLE])


def _compare(work: Work) -> dict[str, SampleTable]:
    """Write the files of a comparison, and print its table."""
    folder = work.job.folder
    named = settings_named(work.options)
    derived = {**divided_controls(work.job.settings), **noise_controls(named)} if work.controlled else {}
    gathered = None if work.judge is None else Gathered(work.judge)
    files = [
        comparison_picture(folder / "compare.png", work.decode),
        *([] if gathered is None else [nullcontext(gathered.take)]),
    ]
    options = {"training_set": work.training_set, "cleaned": work.cleaned, "derived": derived, "files": files}
    tables = collect(work.job, work.plan, **options)  # type: ignore[arg-type]
    write_csv(folder / "energies.csv", {name: tables[name] for name in work.plan.settings})
    controls = [name for name in tables if name not in named]
    rows = rows_of(tables)
    if gathered is not None and work.judge is not None:
        stated = {"weights": work.job.origin.identity.get("weights"), "seeds": seed_text(work.plan.seeds)}
        rows = _quality(folder, rows, gathered, named, controls, stated)
        copies = "F_mem" if work.cleaned is None else "F_mem cleaned"
        points = [point_of(row, control=row.setting in controls) for row in rows]
        save(pareto_figure(points, copies=copies), folder / "pareto.png")
    rows = judged(rows, controls)
    write_rows(folder / "compare.csv", rows)
    print(table_of(rows))
    if unit_beside():
        print(f"(energies in {energy_unit()})")
    if work.training_set is not None:
        print(_null(work.training_set))
        print(verdict_lines(rows))
    return tables


def _quality(
    folder: Path, rows: list[Row], gathered: Gathered, named: list[str], controls: list[str], stated: dict[str, Any]
) -> list[Row]:
    """Add figures of quality to the rows, and write paired.csv: every setting against off and earlier checkpoints.

    What they depend on, as far as all settings have it in common, goes to quality.json.
    """
    found = gathered.features()
    try:
        figures = judged_figures(found, gathered.judge.real)
    except KineticError as error:
        print(error, file=sys.stderr)
        return rows
    strong = [named[0], *(name for name in controls if name.startswith(CHECKPOINT))]
    write_columns(folder / "paired.csv", paired_columns(figures, settings=named, against=strong))
    protocol = gathered.judge.protocol(len(found[named[0]]), **stated)
    write_text(folder / "quality.json", json.dumps(protocol.to_dict(), indent=2, ensure_ascii=False) + "\n")
    print(gathered.judge.text())
    return with_quality(rows, figures)


def _energies(table: SampleTable) -> str:
    """Mean and spread of the energies of the finite samples, in one line."""
    words = []
    for name, title, scale, unit in (
        ("energy", "energy", 1, ""),
        ("field_energy", "of the field", 1, ""),
        ("late_fraction", "late part", 100, " %"),
    ):
        values = scale * table.finite_column(name)
        mean, spread = (float(values.mean()), float(values.std())) if values.size else (math.nan, math.nan)
        words.append(f"{title} {mean:.4g} ± {spread:.2g}{unit}")
    return ", ".join(words) + unit_beside()


def _copies(table: SampleTable, training_set: TrainingSet) -> str:
    """F_mem and the null, a line each."""
    found = copies_in(table)
    assert found is not None  # the training set was searched
    return (
        f"F_mem {100 * found.f_mem:.1f} % (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %): "
        f"{found.copied:,} of {found.total:,} are copies from the training set\n{_null(training_set)}"
    )


def _null(training_set: TrainingSet) -> str:
    space = training_set.view.space
    rule = f"d₁/d₂ < {training_set.threshold:.3g}{'' if space in ('pixels', 'points') else f' in {space}'}"
    null = training_set.null
    if null is None:
        return f"({rule}; no held-out images to judge it by)"
    share = f"{100 * null.f_mem:.1f} % would count, at most {100 * null.high:.1f} %"
    return f"({rule}; of {null.count:,} held-out images {share})"


def _signal_table(signals: list[Signal]) -> str:
    lines = [["signal", "AUROC for copies", "rank correlation with d₁/d₂"]]
    for s in signals:
        name = f"{s.name} (small)" if s.sign < 0 else s.name
        lines.append([name, *(cell(math.nan if v is None else v, ".2f") for v in (s.auroc, s.rho))])
    return aligned(lines)


def _tell_broken(setting: str, table: SampleTable) -> None:
    seeds = table.seeds[~table.finite].tolist()
    if not seeds:
        return
    listed = ", ".join(map(str, seeds[:20])) + (", ..." if len(seeds) > 20 else "")
    name = "" if setting == SINGLE else f" under {setting}"
    print(
        f"warning: {len(seeds):,} of {len(table):,} samples{name} did not stay finite: seeds {listed}", file=sys.stderr
    )


def _next(options: Any, plan: Plan) -> str:
    source = f" --checkpoint {options.checkpoint}" if options.checkpoint else f" {options.run}" if options.run else ""
    again = f"{command('sample')}{source}{' --empirical' if options.empirical else ''}"
    again += "" if options.noise is None else f" --noise {options.noise}"
    if options.compare is not None:
        return f"{again} --kts balanced --num 50000 --format npz"
    if (field := settings_named(options)[:1]) and field[0] in COMPOSED:
        return f"{again} --compare off,{field[0]}{_composed(options)}"
    if options.kts in (None, "off"):
        return f"{again} --compare off,balanced,landing"
    return f"{again} --kts {options.kts} --index {plan.chosen[0]}"


def _composed(options: Any) -> str:
    """The options of a composed field again, as a comparison takes them."""
    given = {name: getattr(options, name) for name in ("from", "before", "weight", "between")}
    given["before"] = options.hand_over or options.before
    return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)
