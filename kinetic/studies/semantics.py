"""Do samples of high energy show their class more clearly? Scores and margins by halves and tenths of the energy.

The paper (Li et al. 2026, arXiv 2602.07928) reports this of ImageNet with SiT: by a CLIP ViT, a score of 21.87 in the
low half against 24.62 in the high one, and a margin of 5.66 against 8.93.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.metrics.detection import difference_estimate, mean_estimate
from kinetic.metrics.ranks import spearman_estimate, within_classes
from kinetic.metrics.semantics import Scorer, Semantics, semantics_of
from kinetic.metrics.statistics import Estimate
from kinetic.models.autoencoder import Decode
from kinetic.plots import deciles_figure
from kinetic.report.findings import NOTE, Cell, Findings, Shown, Table, attempt
from kinetic.samples.table import Array, SampleTable
from kinetic.studies.experiment import Batch, Take
from kinetic.studies.subject import SAMPLES, Drawing, Subject

TENTHS = 10
LEAST = 2 * TENTHS  # samples
WITHIN = "within classes"
PUBLISHED = {"score": (21.87, 24.62), "margin": (5.66, 8.93)}  # low and high half, CLIP, ImageNet (arXiv 2602.07928)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Energies of samples, and how clearly each shows a class.

    Attributes:
        energy: NaN for a sample that is not finite, [N].
        semantics: scores and margins, [N].
        prompted: whether the samples were asked to show a class; else the class is the one that scores highest.
    """

    energy: Array
    semantics: Semantics
    prompted: bool

    @property
    def numbers(self) -> dict[str, Array]:
        """Score and margin, [N] each."""
        return {"score": self.semantics.score.double().numpy(), "margin": self.semantics.margin.double().numpy()}

    @property
    def classes(self) -> Array:
        """The class that each sample is judged by, [N]."""
        return self.semantics.prompted.numpy()


def judged(subject: Subject, drawing: Drawing, scorer: Scorer, *, decode: Decode | None = None) -> Judged:
    """Score what was drawn, `decode`d to pictures where that is needed, by the classes it was asked for."""
    scores: list[Tensor] = []
    (table,) = drawing.collect(files=[_scoring(scorer, scores, decode, total=len(subject.seeds))]).values()
    classes = subject.origin.field.num_classes
    if classes is not None and scorer.classes < classes:
        raise KineticError(f"{scorer.name} knows {scorer.classes} classes, and {subject.origin.name} makes {classes}")
    return judged_by(table, torch.cat(scores), prompted=classes is not None)


def judged_by(table: SampleTable, scores: Tensor, *, prompted: bool) -> Judged:
    """Judge scores [N, classes] by the labels of the samples, or by their highest."""
    labels = torch.from_numpy(table.labels) if prompted else None
    energy = np.where(table.finite, table.columns["energy"], np.nan)
    return Judged(energy=energy, semantics=semantics_of(scores, labels), prompted=prompted)


@contextmanager
def _scoring(scorer: Scorer, scores: list[Tensor], decode: Decode | None, *, total: int) -> Iterator[Take]:
    with progress("scoring", "samples", total=total) as bar:

        def take(batch: Batch, images: dict[str, Tensor]) -> None:
            x = images[SAMPLES]
            scores.append(scorer.scores(x if decode is None else decode(x)))
            bar.update(len(x))

        yield take


def parts_of(energy: Array, labels: Array, count: int) -> Array:
    """Which of `count` equal parts of the energies of its class each sample [N] lies in, from 0; -1 for none.

    None are samples without an energy, those of classes of fewer than three, and those on the border of two halves.
    """
    if np.isfinite(energy).sum() < LEAST:
        raise KineticError(f"halves and tenths need at least {LEAST} finite samples, got {np.isfinite(energy).sum()}")
    if np.nanmin(energy) == np.nanmax(energy):
        raise KineticError(f"all energies are {np.nanmin(energy):g}, so none are high or low")
    ranks = within_classes(energy, labels)
    parts = np.floor(count * np.nan_to_num(ranks)).astype(int)
    return np.where(np.isnan(ranks) | ((count == 2) & (ranks == 0.5)), -1, parts)


def halves(found: Judged) -> list[dict[str, Cell]]:
    """A row for score and margin, over all samples and within classes."""
    everywhere = np.zeros(len(found.energy), int)
    rows: list[dict[str, Cell]] = []
    for where, labels in (("all", everywhere), (WITHIN, found.classes)):
        for name, values in found.numbers.items():
            rows.append(attempt({"of": name, "halves": where}, lambda: _half_row(found, labels, values)))  # noqa: B023
    return rows


def _half_row(found: Judged, labels: Array, values: Array) -> dict[str, Cell]:
    parts = parts_of(found.energy, labels, 2)
    low, high = values[parts == 0], values[parts == 1]
    kept = np.where(parts < 0, np.nan, values)
    ranks = [within_classes(one, labels) for one in (np.where(parts < 0, np.nan, found.energy), kept)]
    return {
        "low_half": mean_estimate(low),
        "high_half": mean_estimate(high),
        "high_less_low": difference_estimate(high, low),
        "rho": spearman_estimate(*ranks),
        "n": len(low) + len(high),
    }


def tenths(found: Judged) -> list[dict[str, Cell]]:
    """A row for each tenth of the energies; one with a note where there are none."""
    return [attempt({"tenth": 1 + number}, lambda: _tenth_row(found, number)) for number in range(TENTHS)]  # noqa: B023


def _tenth_row(found: Judged, number: int) -> dict[str, Cell]:
    here = parts_of(found.energy, np.zeros(len(found.energy), int), TENTHS) == number
    means = {name: mean_estimate(values[here]) for name, values in found.numbers.items()}
    return {"energy": float(found.energy[here].mean()), **means, "n": int(here.sum())}


def semantics_findings(subject: Subject, found: Judged, scorer: Scorer, **protocol: Any) -> Findings:
    """Put halves and tenths into tables and a picture."""
    rows, by_tenth = halves(found), tenths(found)
    lost = int((~np.isfinite(found.energy)).sum())
    judge = "the class that was asked for" if found.prompted else "the class that scores highest (none was asked for)"
    said = f"Score and margin of {judge} in each tenth of the energy, means with 95 % intervals."
    return Findings(
        title=f"Energy and semantics of samples from {subject.origin.name}",
        says=says(rows, found, scorer, lost),
        table=Table(
            rows=rows,
            caption=f"Of {judge}, by {scorer.name}: its score ({scorer.unit}), and its margin over the best other"
            " class; means of the halves of low and of high energy, their difference, Spearman's ρ with energy, all"
            " with 95 % intervals. Within classes the halves are those of each class.",
            digits=3,
        ),
        more={"tenths": Table(rows=by_tenth, caption="Tenths of the energy, from the lowest.")},
        protocol=subject.protocol(
            scores=scorer.name, unit=scorer.unit, note=scorer.note, judged_class=judge, left_out=lost, **protocol
        ),
        pictures={}
        if by_tenth[0].get(NOTE)
        else {"tenths": Shown(figure=_figure(by_tenth, scorer.unit), alt=said, caption=said)},
        space=subject.origin.field.space,
    )


def _figure(rows: Sequence[Mapping[str, Cell]], unit: str) -> Figure:
    values: dict[str, list[list[float]]] = {"score": [], "margin": []}
    for row in rows:
        for name, some in values.items():
            one = row[name]
            assert isinstance(one, Estimate)  # rows without a note have both
            some.append([one.value, one.low, one.high])
    named = {f"{name} ({unit})": some for name, some in values.items()}
    return deciles_figure(named, means={name: float(np.mean(some, 0)[0]) for name, some in named.items()})


def says(rows: Sequence[Mapping[str, Cell]], found: Judged, scorer: Scorer, lost: int = 0) -> list[str]:
    """What follows, beside what the paper reports."""
    whole = [row for row in rows if not row.get(NOTE)]
    said = [_headline(whole), *(_says(row) for row in whole)]
    if not found.prompted:
        said.append(
            "The network has no classes, so that no class was asked for: score and margin are how sure "
            f"{scorer.name} is of whatever it sees."
        )
    said.append(
        "The paper (Li et al. 2026, arXiv 2602.07928) reports for CLIP on ImageNet, from the low to the high half, "
        + " and ".join(f"a {name} of {low} and {high}" for name, (low, high) in PUBLISHED.items())
        + ("." if scorer.unit == "100 cos" else f"; scores here are {scorer.unit}, so that signs alone compare.")
    )
    return [*said, *([f"{lost} samples that are not finite are left out."] if lost else [])]


def _headline(rows: Sequence[Mapping[str, Cell]]) -> str:
    """The conclusion, from score and margin over all samples."""
    differences = [one for row in rows if row["halves"] == "all" and isinstance(one := row["high_less_low"], Estimate)]
    if not differences:
        return "There are no halves of low and of high energy here; the notes say why."
    if all(one.low > 0 for one in differences):
        return "Samples of high energy show their class more clearly than those of low energy, as the paper reports."
    if all(one.high < 0 for one in differences):
        return (
            "Samples of high energy show their class less clearly than those of low energy: this contradicts the paper."
        )
    return (
        "Samples of high energy do not certainly show their class more clearly: the paper's finding is not seen here."
    )


def _says(row: Mapping[str, Cell]) -> str:
    one = row["high_less_low"]
    assert isinstance(one, Estimate)
    word = "higher" if one.low > 0 else "lower" if one.high < 0 else "no other for certain"
    of = "in the high half of each class" if row["halves"] == WITHIN else "in the half of high energy"
    return f"The {row['of']} is {word} {of}: high less low {one.value:.3g} ({one.low:.3g} to {one.high:.3g})."
