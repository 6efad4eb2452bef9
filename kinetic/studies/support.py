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
from kinetic.metrics.statistics import Estimate
from kinetic.metrics.support import Support, support_of
from kinetic.plots import correlations_figure, support_figure
from kinetic.report.findings import NOTE, Cell, Findings, Shown, Table, attempt
from kinetic.samples.table import NO_LABEL, Array, SampleTable
from kinetic.studies.experiment import Batch, Take
from kinetic.studies.references import FOLDER, extractor_of, features_of_split
from kinetic.studies.subject import SAMPLES, Drawing, Subject
from kinetic.tensors import seeded_noise
from kinetic.units import energies_of

PUBLISHED = {"knn": -0.65, "density": -0.64}  # Spearman with support on CIFAR-10 (Li et al. 2026, arXiv 2602.07928)
TITLES = {"knn": "nearest neighbours", "density": "kernel density"}
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


def support_findings(subject: Subject, found: Supported, **protocol: Any) -> Findings:
    """Put the correlations into a table and pictures."""
    rows = correlations(found, over=lambda items: progress("correlating", "spaces", over=list(items)))
    measured = {name: one for name, one in found.supports.items() if isinstance(one, Support)}
    widths = {name: one.bandwidth for name, one in measured.items()}
    with energies_of(subject.origin.field.space):
        pictures = _pictures(found, measured, rows, protocol["split"])
    lost = int((~found.table.finite).sum())
    return Findings(
        title=f"Energy and support of samples from {subject.origin.name}",
        says=says(rows, lost),
        table=Table(
            rows=rows,
            caption="Spearman's ρ and Kendall's τ, with 95 % intervals, of each number with support by real images:"
            " minus the distance to the k-th nearest (knn), and kernel log-density (density). Negative: large numbers"
            " have little support. Copies are told by d₁/d₂. The paper: ρ of energy -0.65 (knn) and -0.64 (density) on"
            " CIFAR-10.",
            digits=2,
        ),
        protocol=subject.protocol(**protocol, bandwidths=widths, left_out=lost, features=dict(found.notes)),
        pictures=pictures,
        space=subject.origin.field.space,
    )


def _pictures(
    found: Supported, measured: Mapping[str, Support], rows: Sequence[Mapping[str, Cell]], split: str
) -> dict[str, Shown]:
    pictures = {}
    if measured:
        name, support = next(iter(measured.items()))
        row = next((row for row in rows if row["features"] == name and row["of"] == ENERGY), {})
        axes = {
            f"distance to the k-th nearest {split} image": "knn",
            f"log-density of {split} images (nats)": "density",
        }
        values = dict(zip(axes, (support.distance, support.log_density), strict=True))
        titles = {axis: f"{name}: ρ with support {_number(row.get(f'{kind}_rho'))}" for axis, kind in axes.items()}
        said = f"Energy of each sample against its distance to {split} images, and their density, in {name}."
        pictures["energies"] = Shown(
            figure=support_figure(found.measures[ENERGY], values, titles), alt=said, caption=said
        )
    said = "Spearman's ρ of energies and of the controls with support, with 95 % intervals, in each feature space."
    spread = {TITLES[kind]: _by_space(rows, f"{kind}_rho") for kind in PUBLISHED}
    figure = correlations_figure(spread, label="ρ with support")
    return {**pictures, "correlations": Shown(figure=figure, alt=said, caption=said)}


def _by_space(rows: Sequence[Mapping[str, Cell]], column: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    spaces: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        if isinstance(one := row.get(column), Estimate):
            spaces.setdefault(str(row["features"]), {})[str(row["of"]).replace("_", " ")] = (
                one.value,
                one.low,
                one.high,
            )
    return spaces


def says(rows: Sequence[Mapping[str, Cell]], lost: int = 0) -> list[str]:
    """What follows, for each space, beside what the paper reports."""
    said = [_space_says(str(row["features"]), row, rows) for row in rows if row["of"] == ENERGY and not row.get(NOTE)]
    if not said:
        said = ["No correlation of energy with support is defined here; the notes say why."]
    said.append(
        "The paper (Li et al. 2026, arXiv 2602.07928) reports ρ = -0.65 with nearest-neighbour support and -0.64 with "
        "kernel density on CIFAR-10: samples of high energy have little support."
    )
    return [*said, *([f"{lost} samples that are not finite are left out."] if lost else [])]


def _space_says(space: str, row: Mapping[str, Cell], rows: Sequence[Mapping[str, Cell]]) -> str:
    own = _rhos(row)
    if all(one.high < 0 for one in own.values()):
        word, verdict = "have less support than others", "this agrees with the paper in sign"
    elif all(one.low > 0 for one in own.values()):
        word, verdict = "have more support than others", "this contradicts the paper"
    elif any(one.high < 0 for one in own.values()) and not any(one.low > 0 for one in own.values()):
        word, verdict = "have less support by one measure, not certainly by the other", "this agrees in part"
    else:
        word, verdict = "have neither less nor more support for certain", "the paper's finding is not seen here"
    numbers = " and ".join(f"{_number(one)} ({TITLES[kind]})" for kind, one in own.items())
    return f"In {space}, samples of high energy {word}: ρ = {numbers}; {verdict}.{_beaten(space, own, rows)}"


def _rhos(row: Mapping[str, Cell]) -> dict[str, Estimate]:
    return {kind: one for kind in PUBLISHED if isinstance(one := row.get(f"{kind}_rho"), Estimate)}


def _beaten(space: str, own: Mapping[str, Estimate], rows: Sequence[Mapping[str, Cell]]) -> str:
    """Name the controls that go with support at least as closely as energy does."""
    found = []
    for row in rows:
        if row["features"] == space and row["of"] in CONTROLS.values():
            sure = {kind: one for kind, one in _rhos(row).items() if one.low > 0 or one.high < 0}
            others = {kind: one for kind, one in sure.items() if abs(one.value) >= abs(own[kind].value)}
            numbers = " and ".join(f"{one.value:.2f} ({TITLES[kind]})" for kind, one in others.items())
            found += [f"the {str(row['of']).removeprefix('control: ')} gives {numbers}"] if numbers else []
    return f" But no less closely go plain numbers: {'; '.join(found)}." if found else ""


def _number(one: Any) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" if isinstance(one, Estimate) else "undefined"
