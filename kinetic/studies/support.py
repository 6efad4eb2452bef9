"""Do samples of high energy lie where training images are sparse? Rank correlations of energies with support.

Every correlation is with support itself, that is with minus the distance and with the log-density: negative means that
samples of high energy have little support, which is what the paper reports (Li et al. 2026, arXiv 2602.07928).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.data.progress import progress
from kinetic.errors import KineticError, first_line
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.features import Extractor, features
from kinetic.metrics.ranks import kendall_estimate, spearman_estimate, within_classes
from kinetic.metrics.support import Support, support_of
from kinetic.report.findings import NOTE, Cell, attempt
from kinetic.samples.references import FOLDER, extractor_of, features_of_split
from kinetic.samples.table import NO_LABEL, Array, SampleTable
from kinetic.studies.experiment import Batch, Take
from kinetic.studies.subject import SAMPLES, Drawing, Subject
from kinetic.tensors import seeded_noise

ENERGY, WITHIN, ORIGINAL = "energy", "energy within classes", "energy of no copies"
CONTROLS = {"norm": "control: norm of the sample", "noise": "control: norm of its noise"}


@dataclass(frozen=True, kw_only=True)
class Space:
    """A feature space, or why there is none."""

    name: str
    extractor: Extractor | None = None
    fault: str = ""


class Seen:
    """Features of samples in every space, and plain numbers that could explain their support, batch by batch."""

    def __init__(self, spaces: Sequence[Space], *, total: int) -> None:
        self.spaces = {space.name: space for space in spaces}
        self.total = total
        self.found: dict[str, list[Tensor]] = {name: [] for name in self.spaces}
        self.plain: dict[str, list[Tensor]] = {name: [] for name in CONTROLS}

    @contextmanager
    def taking(self) -> Iterator[Take]:
        """Take batches under a progress bar."""
        with progress("features of samples", "samples", total=self.total) as bar:

            def take(batch: Batch, images: dict[str, Tensor]) -> None:
                x, seeds = images[SAMPLES], batch[SAMPLES].table.seeds
                self.plain["norm"].append(x.flatten(1).double().norm(dim=1))
                self.plain["noise"].append(seeded_noise(seeds.tolist(), x.shape[1:]).flatten(1).double().norm(dim=1))
                for name in self.spaces:
                    self._see(name, x)
                bar.update(len(x))

            yield take

    def _see(self, name: str, x: Tensor) -> None:
        extractor = self.spaces[name].extractor
        if extractor is None:
            return
        try:
            self.found[name].append(features(x, extractor))
        except (KineticError, RuntimeError) as error:  # another size of images than a network takes
            self.spaces[name] = Space(name=name, fault=first_line(error))

    def controls(self) -> dict[str, Array]:
        """The plain numbers [N] by their titles."""
        return {title: torch.cat(self.plain[name]).numpy() for name, title in CONTROLS.items()}


@dataclass(frozen=True, kw_only=True)
class Supported:
    """Energies of samples, and their support in each space.

    Attributes:
        table: of the samples.
        measures: what is correlated with support, by name, [N].
        controls: plain numbers that energy has to beat, by name, [N].
        supports: by space; a text says why there is none.
        notes: what a reader should know of a space.
    """

    table: SampleTable
    measures: Mapping[str, Array]
    controls: Mapping[str, Array]
    supports: Mapping[str, Support | str]
    notes: Mapping[str, str] = field(default_factory=dict)


def spaces_of(subject: Subject, names: Sequence[str]) -> list[Space]:
    """Make the extractors called `names`; one that cannot be made says why."""
    return [_space(subject, name) for name in progress("fitting features", "spaces", over=dict.fromkeys(names))]


def _space(subject: Subject, name: str) -> Space:
    try:
        return Space(name=name, extractor=extractor_of(subject.data, name, device=subject.device, trust=subject.trust))
    except (KineticError, OSError, RuntimeError) as error:
        return Space(name=name, fault=first_line(error))


def supported(
    subject: Subject,
    drawing: Drawing,
    names: Sequence[str],
    *,
    k: int,
    bandwidth: float | str,
    limit: int,
    split: str = "training",
) -> Supported:
    """Measure the support of what was drawn by at most `limit` images of a split, in each space."""
    seen = Seen(spaces_of(subject, names), total=len(subject.seeds))
    (table,) = drawing.collect(training_set=_training_set(subject), files=[seen.taking()]).values()
    supports: dict[str, Support | str] = {}
    for name, space in progress("support", "spaces", over=list(seen.spaces.items())):
        supports[name] = space.fault
        if space.extractor is None:
            continue
        try:
            where: Any = {"split": split, "limit": limit, "folder": subject.run / FOLDER}
            real = features_of_split(subject.data, space.extractor, **where)
            supports[name] = support_of(torch.cat(seen.found[name]), real, k=k, bandwidth=bandwidth)
        except (KineticError, RuntimeError) as error:
            supports[name] = first_line(error)
    notes = {name: space.extractor.note for name, space in seen.spaces.items() if space.extractor is not None}
    controls = {name: np.where(table.finite, values, np.nan) for name, values in seen.controls().items()}
    return Supported(table=table, measures=measures_of(table), controls=controls, supports=supports, notes=notes)


def _training_set(subject: Subject) -> TrainingSet | None:
    """What tells copies; None where they cannot be told."""
    try:
        return subject.training_set
    except (KineticError, OSError):
        return None


def measures_of(table: SampleTable) -> dict[str, Array]:
    """What was measured of the samples, [N] each, and the energy of those that are no copies, and within classes.

    A column that repeats the energy, as that of the field where nothing is shaped, or in another unit, is left out.
    """
    energy = np.where(table.finite, table.columns[ENERGY], np.nan)
    made = {ENERGY: energy}
    for name, values in table.columns.items():
        if (
            name != ENERGY
            and name in table.kinds
            and table.kinds[name].sign is not None
            and not np.allclose(values, energy, equal_nan=True)
        ):
            made[name] = np.where(table.finite, values, np.nan)
    if "copied" in table.columns:
        made[ORIGINAL] = np.where(table.columns["copied"] > 0, np.nan, energy)
    if (table.labels != NO_LABEL).any():
        made[WITHIN] = within_classes(energy, table.labels)
    return made


def correlations(found: Supported, *, over: Any = list) -> list[dict[str, Cell]]:
    """A row for each space and measure; where there is no correlation, the row says why."""
    rows: list[dict[str, Cell]] = []
    for space, support in over(found.supports.items()):
        if isinstance(support, str):
            rows.append({"features": space, "of": ENERGY, NOTE: support})
            continue
        for name, values in {**found.measures, **found.controls}.items():
            rows.append(attempt({"features": space, "of": name}, lambda: _row(found, support, name, values)))  # noqa: B023
    return rows


def _row(found: Supported, support: Support, name: str, values: Array) -> dict[str, Cell]:
    made: dict[str, Cell] = {}
    for kind, supports in supports_of(support).items():
        other = within_classes(supports, found.table.labels) if name == WITHIN else supports
        made[f"{kind}_rho"] = spearman_estimate(values, other)
        made[f"{kind}_tau"] = kendall_estimate(values, other)
        made["n"] = int((np.isfinite(values) & np.isfinite(other)).sum())
    return made


def supports_of(support: Support) -> dict[str, Array]:
    """Support, large where there is much of it: minus the distance, and the log-density, [N] each."""
    return {"knn": -support.distance.cpu().numpy(), "density": support.log_density.cpu().numpy()}
