"""Quality beside copies: Fréchet distance, precision and recall of every setting, and what they differ by in pairs.

Features of all settings are found in one pass. Differences are over the same seeds, resampled together, so that what
seeds have in common cancels: they are certain to a fraction of what single figures are.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.metrics import paired
from kinetic.metrics.features import Extractor, features
from kinetic.metrics.paired import Difference, Metric, Resampled
from kinetic.metrics.protocol import Protocol
from kinetic.metrics.real import LEAST, RealFeatures
from kinetic.samples.references import extractor_of, reference_of
from kinetic.studies.compare import Figure, Row
from kinetic.studies.experiment import Batch
from kinetic.trust import STRANGER, Trust

Figures = Mapping[str, Mapping[str, Resampled]]  # by setting, then by name
Over = Callable[[Iterable[str]], Iterable[str]]
METRICS: dict[str, Metric] = {"fd": paired.fid, "precision": paired.precision, "recall": paired.recall}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Features, and the real images that samples are compared with in them."""

    extractor: Extractor
    real: RealFeatures

    @classmethod
    def of(
        cls,
        data: FlowDataModule,
        name: str | None = None,
        *,
        device: torch.device | str = "cpu",
        trust: Trust = STRANGER,
        folder: Path | None = None,
    ) -> "Judge":
        """Fit features called `name` on the training images where that is needed, and see held-out images in them.

        By default principal components, which are there at once; a classifier takes up to a minute. What real images
        are in them is kept in `folder`.
        """
        if data.num_held_out < LEAST:
            raise KineticError(
                f"quality needs {LEAST} held-out images at least, and {data.name} has {data.num_held_out}"
            )
        made = extractor_of(data, name, device=device, trust=trust)
        return cls(extractor=made, real=reference_of(data, made, folder=folder).real)

    def text(self) -> str:
        """What figures are of, in a line."""
        note = f" ({self.extractor.note})" if self.extractor.note else ""
        return (
            f"fd, precision, recall: against {self.real.split} in features {self.extractor.name!r}{note}; "
            f"fd of two halves of these: {self.real.halves:.3g}"
        )

    def protocol(self, samples: int, **stated: Any) -> Protocol:
        """What figures of so many samples depend on; `stated` says how they were drawn."""
        real = self.real
        named = {name: getattr(real, name) for name in ("split", "extractor", "extractor_hash", "resize", "k")}
        return Protocol(samples=samples, real=len(real.features), **named, **stated)


class Gathered:
    """Features of the samples of every setting, batch by batch."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.found: dict[str, list[Tensor]] = {}

    def take(self, batch: Batch, images: dict[str, Tensor]) -> None:
        """Take in the samples of all settings."""
        for name, x in images.items():
            self.found.setdefault(name, []).append(features(x, self.judge.extractor))

    def features(self) -> dict[str, Tensor]:
        """Features [N, F] of every setting, of the seeds that stayed finite under all of them."""
        whole = {name: torch.cat(parts) for name, parts in self.found.items()}
        keep = torch.stack([values.isfinite().all(1) for values in whole.values()]).all(0)
        return {name: values[keep] for name, values in whole.items()}


def resampled_figures(found: Mapping[str, Tensor], real: RealFeatures, *, over: Over = list) -> Figures:
    """fd, precision and recall of features [N, F] of every setting, which belong to the same seeds, with resamplings.

    `over` goes through the names, under a progress bar for instance.
    """
    return {n: {name: Resampled.of(metric, found[n], real) for name, metric in METRICS.items()} for n in over(found)}


def judged_figures(found: Mapping[str, Tensor], real: RealFeatures) -> Figures:
    """The same under a progress bar; KineticError where the seeds that are left are too few."""
    if (count := len(next(iter(found.values())))) < LEAST:
        needed = f"{LEAST} samples that are finite under all settings"
        raise KineticError(f"quality is left out: it needs {needed}, there are {count}")
    return resampled_figures(found, real, over=lambda names: progress("judging", "settings", over=names))


def with_quality(rows: Sequence[Row], figures: Figures) -> list[Row]:
    """Add fd, precision and recall to every row, and how they differ from those of the first, with intervals."""
    first = rows[0].setting
    made = []
    for row in rows:
        own = figures[row.setting]
        more = {name: Figure(one.figure, share=name != "fd") for name, one in own.items()}
        for name, one in differences(own, figures[first]).items() if row.setting != first else ():
            more[f"{name}_from_{first}"] = Figure(
                one.difference, one.low, one.high, share=name != "fd", quiet=name != "fd"
            )
        made.append(replace(row, more={**row.more, **more}))
    return made


def differences(own: Mapping[str, Resampled], other: Mapping[str, Resampled]) -> dict[str, Difference]:
    """The figures of one setting less those of another."""
    return {name: one.minus(other[name]) for name, one in own.items()}


def paired_columns(figures: Figures, *, settings: Collection[str], against: Collection[str]) -> dict[str, list[Any]]:
    """Columns setting, against, figure, difference, low, high of every setting against every control."""
    columns: dict[str, list[Any]] = {name: [] for name in ("setting", "against", "figure", "difference", "low", "high")}
    for setting, other in ((a, b) for a in settings for b in against if a != b):
        for name, one in differences(figures[setting], figures[other]).items():
            values = (setting, other, name, one.difference, one.low, one.high)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    return columns
