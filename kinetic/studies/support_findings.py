"""What energies and support have to do with each other, in a table, pictures and plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

from kinetic.data.progress import progress
from kinetic.metrics.statistics import Estimate
from kinetic.metrics.support import Support
from kinetic.plots import correlations_figure, support_figure
from kinetic.report.findings import NOTE, Cell, Findings, Shown, Table
from kinetic.studies.subject import Subject
from kinetic.studies.support import CONTROLS, ENERGY, Supported, correlations
from kinetic.units import energies_of

PUBLISHED = {"knn": -0.65, "density": -0.64}  # Spearman with support on CIFAR-10 (Li et al. 2026, arXiv 2602.07928)
TITLES = {"knn": "nearest neighbours", "density": "kernel density"}


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
