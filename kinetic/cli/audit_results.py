"""The end of `audit`: from what was found to files and a few lines for the terminal."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kinetic.advice import command
from kinetic.memorization.detectors import COUNT
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.detection import Detection
from kinetic.metrics.statistics import Estimate
from kinetic.models.opening import Origin
from kinetic.plots import detection_figure, gallery, image_grid, save
from kinetic.samples.copying import KINDS, copies_in
from kinetic.samples.export import write_columns
from kinetic.store.files import write_text
from kinetic.studies.audit import Audit
from kinetic.text import aligned, cell

SCORE = "score.json"


def write_audit(
    folder: Path, found: Audit, origin: Origin, before: Origin | None, training: TrainingSet | None
) -> None:
    """Write scores.csv (one row a sample), summary.json, suspects.png, and with --verify roc.png and score.json."""
    table = found.table
    columns: dict[str, Any] = {"seed": table.seeds.tolist(), "label": [None if v < 0 else v for v in table.labels]}
    columns |= {"score": found.score.tolist()}
    columns |= {} if found.probability is None else {"probability": found.probability.tolist()}
    columns |= {name: values.tolist() for name, values in found.signals.items()}
    columns |= {name: table.columns[name].tolist() for name in ("energy", *KINDS) if name in table.columns}
    write_columns(folder / "scores.csv", columns)
    write_text(folder / "summary.json", json.dumps(_summary(found, origin, before), indent=2) + "\n")
    if found.fitted is not None:
        write_text(folder / SCORE, json.dumps(found.fitted.to_dict(), indent=2) + "\n")
    if origin.field.space == "pixels":
        _picture(folder / "suspects.png", found, training)
    if "copied" in table.columns:
        save(
            detection_figure(found.score, table.columns["copied"], name=found.name.partition(" fitted on")[0]),
            folder / "roc.png",
        )


def _picture(path: Path, found: Audit, training: TrainingSet | None) -> None:
    seeds = found.table.seeds[found.order].tolist()
    if training is None:
        save(image_grid(found.suspects, [f"seed {seed}" for seed in seeds], title="most suspicious first"), path)
        return
    columns = {name: found.table.columns[name][found.order] for name in KINDS}
    numbers = columns["neighbor"].astype(int).tolist()
    beside = training.beside(found.suspects, torch.tensor(numbers))
    captions = [f"seed {seed}\nd₁/d₂ {ratio:.2f}" for seed, ratio in zip(seeds, columns["ratio"], strict=True)]
    save(gallery(found.suspects, beside, captions, marked=columns["copied"].astype(bool).tolist()), path)


def _summary(found: Audit, origin: Origin, before: Origin | None) -> dict[str, Any]:
    """What summary.json holds; null where nothing is known."""
    copies = copies_in(found.table)
    true = None if copies is None else Estimate(copies.f_mem, copies.low, copies.high)
    judged = {} if found.detection is None else asdict(found.detection)
    numbers = {name: judged.get(name) for name in ("auroc", "tpr_at_1", "tpr_at_5")}
    numbers |= {"f_mem": None if found.f_mem is None else asdict(found.f_mem)}
    return _plain(
        {
            **numbers,
            "f_mem_true": None if true is None else asdict(true),
            "score": found.name,
            "evaluations": COUNT if before is None else 2 * COUNT,
            "samples": len(found.table),
            "signals": {name: asdict(one) for name, one in found.by_signal.items()},
            "membership": {name: asdict(one) for name, one in found.membership.items()},
            "of": {"name": origin.name, **origin.identity},
            "before": None if before is None else {"name": before.name, **before.identity},
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def audit_text(found: Audit, origin: Origin, before: Origin | None) -> str:
    """The findings as people read them."""
    lines = [f"\n{len(found.table):,} samples of {origin.name}, judged by: {found.name}"]
    if before is not None:
        lines.append(f"compared with {before.name}")
    if found.f_mem is not None:
        lines.append(f"F_mem, estimated without training data: {_percent(found.f_mem)}")
    copies = copies_in(found.table)
    if copies is not None:
        true = Estimate(copies.f_mem, copies.low, copies.high)
        lines.append(f"F_mem, against the training data: {_percent(true)}")
    head = ["", "AUROC", "found at 1 % false", "at 5 %"]
    rows = [] if found.detection is None else [_row("this score", found.detection)]
    rows += [_row(name, one) for name, one in found.by_signal.items()]
    rows += [_row(f"membership: {name}", one) for name, one in found.membership.items()]
    return "\n".join([*lines, *([aligned([head, *rows])] if rows else [])])


def _row(name: str, found: Detection) -> list[str]:
    area = f"{cell(found.auroc.value, '.3f')} ({cell(found.auroc.low, '.3f')} to {cell(found.auroc.high, '.3f')})"
    return [name, area, *(_percent(one) for one in (found.tpr_at_1, found.tpr_at_5))]


def _percent(one: Estimate) -> str:
    low, high = (cell(100 * value, ".1f") for value in (one.low, one.high))
    return f"{cell(100 * one.value, '.1f', ' %')} ({low} to {high})"


def advice_text(folder: Path, found: Audit, *, verified: bool, run: str | None) -> str:
    """Where things are, and what to do next."""
    look = f"Look:  {os.path.relpath(folder)}/suspects.png, the numbers in scores.csv and summary.json"
    if found.fitted is not None:
        return f"{look}\nNext:  {command('audit')} ANOTHER_RUN --fit {os.path.relpath(folder / SCORE)}"
    if verified:
        return f"{look}\n(no copy score was fitted: that takes 10 copies and 10 others)"
    return f"{look}\nNext:  {command('audit')} {run or 'RUN'} --verify, where the training data is at hand"
