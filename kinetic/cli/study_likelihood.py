"""The command `study likelihood`: log p by the model's own flow, and how energies go with it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kinetic.cli.options import parsed
from kinetic.cli.study_options import finish, study_parser, subject_of
from kinetic.flow.energy import STANDARD
from kinetic.flow.likelihood import LEVEL, Divergence, LogLikelihood
from kinetic.flow.seeds import check_count
from kinetic.metrics.detection import difference_estimate
from kinetic.metrics.statistics import Estimate
from kinetic.plots import energy_likelihood, likelihood_histograms
from kinetic.report.findings import NOTE, Cell, Findings, Shown, Table, attempt
from kinetic.samples.table import Array, SampleTable
from kinetic.store.arrays import kept
from kinetic.studies.likelihood import (
    ENERGIES,
    Densities,
    check_density,
    correlations,
    densities_of_images,
    density_row,
)
from kinetic.studies.subject import KEPT, SAMPLES, Subject

SPLITS = {"held-out": True, "training": False}
PAPER = "Li et al. (2026, arXiv 2602.07928), who approximated the density, report -0.65 by neighbours and -0.64 by KDE"


def study_likelihood(args: list[str]) -> None:
    """Measure log-likelihoods of samples and of images."""
    options = parsed(_parser(), args)
    images = check_count(options.images, "--images")
    measure = LogLikelihood(options.probes)
    subject = subject_of("likelihood", options)
    check_density(subject.origin)
    probes = measure.count(math.prod(subject.origin.field.shape or ()))
    drawn = subject.draw(into=f"{SAMPLES}-{probes}-probes", measures=(*STANDARD, LogLikelihood(probes)))
    if subject.first:
        (table,) = drawn.collect().values()
        finish(subject, findings_of(subject, table, images=images, probes=probes))


def _parser() -> Any:
    about = "Log-likelihood by the model's own flow, of samples, held-out and training images, and energies beside it."
    made = study_parser("likelihood", about, num=128)
    made.set_defaults(method="heun2", steps=20)
    group = made.add_argument_group("how much to look at")
    group.add_argument("--images", type=int, default=128, metavar="N", help="held-out and training images at most")
    help_ = "for the divergence; as many as dimensions are exact (None: exact up to 16 dimensions, else 8)"
    group.add_argument("--probes", type=int, metavar="K", help=help_)
    return made


def findings_of(subject: Subject, table: SampleTable, *, images: int, probes: int) -> Findings:
    """Put samples and images side by side, and correlate."""
    size, pixels = math.prod(subject.origin.field.shape or ()), subject.origin.field.space == "pixels"
    energies = {name: table.columns[name] for name in ENERGIES}
    found = {SAMPLES: Densities(log_p=table.columns["log_likelihood"], energies=energies)}
    rows: list[dict[str, Cell]] = [density_row(SAMPLES, found[SAMPLES], size=size, pixels=pixels)]
    for name, held_out in SPLITS.items():

        def row(name: str = name, held_out: bool = held_out) -> dict[str, Cell]:
            found[name] = _of_images(subject, held_out=held_out, images=images, probes=probes)
            return density_row(name, found[name], size=size, pixels=pixels)

        rows.append(attempt({"of": name}, row))
    gap: dict[str, Cell] = {"of": "training less held-out"}
    if set(SPLITS) <= set(found):
        gap["nats_per_dim"] = difference_estimate(*(found[name].log_p / size for name in ("training", "held-out")))
        rows.append(gap)
    more = [row for name, one in found.items() for row in correlations(name, one)]
    level = {"level": LEVEL, "dequantised": "images, by uniform noise of one of 256 levels"} if pixels else {}
    exact = "exact" if probes >= size else f"{probes} orthogonal probes, common to all"
    return Findings(
        title=f"Log-likelihood by the flow of {subject.origin.name}",
        says=_says(gap, more, exact=probes >= size),
        table=Table(rows=rows, caption="Mean log p of the density per dimension, and mean energy; 95 % intervals."),
        more={"correlations": Table(rows=more, caption="Rank correlation of energies with log p.")},
        protocol=subject.protocol(images=images, divergence=exact, seed_of_probes=Divergence().seed, **level),
        pictures=_pictures(found, size),
        space=subject.origin.field.space,
    )


def _of_images(subject: Subject, *, held_out: bool, **asked: Any) -> Densities:
    """Follow images back, or take what was found before for the same."""
    how: dict[str, Any] = {"precision": subject.precision, "batch_size": subject.batch_size or 64, **asked}

    def make() -> dict[str, Array]:
        more: dict[str, Any] = {"sampler": subject.sampler, "device": subject.device, "held_out": held_out}
        found = densities_of_images(subject.origin, subject.data, **more, **how)
        return {"log_p": found.log_p, **found.energies}

    path = subject.folder / KEPT / f"{'held-out' if held_out else 'training'}.npz"
    columns = kept(path, subject.protocol(**how), make)
    return Densities(log_p=columns.pop("log_p"), energies=columns)


def _says(gap: Mapping[str, Cell], rows: Sequence[Mapping[str, Cell]], *, exact: bool) -> list[str]:
    """What follows for the paper's claim, and for memorisation; `rows` of correlations, those of samples first."""
    return [_of_correlation(rows[0]), *_of_others(rows), _of_gap(gap), *([] if exact else [_PROBED])]


def _of_others(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """The same correlation among real images."""
    known = {str(row["of"]): row.get("spearman") for row in rows if row["energy"] == "energy" and row["of"] != SAMPLES}
    said = [
        f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f}) among {name} images"
        for name, one in known.items()
        if isinstance(one, Estimate)
    ]
    return [f"The same correlation is {' and '.join(said)}."] if said else []


_PROBED = "The divergence is an estimate along fixed probes; --probes as many as dimensions makes it exact."


def _of_correlation(first: Mapping[str, Cell]) -> str:
    rho = first.get("spearman")
    if not isinstance(rho, Estimate):
        return f"How energy goes with log-likelihood is undefined here: {first.get(NOTE)}. {PAPER}."
    lead, agrees = "Energy and likelihood of samples do not clearly go together", "this run does not show it"
    if rho.high < 0:
        lead, agrees = "Samples that spend more energy are less likely", "this run agrees in sign"
    if rho.low > 0:
        lead, agrees = "Samples that spend more energy are more likely", "this run has the opposite sign"
    return f"{lead}: Spearman {rho.value:.2f} ({rho.low:.2f} to {rho.high:.2f}). {PAPER}: {agrees}."


def _of_gap(gap: Mapping[str, Cell]) -> str:
    value = gap.get("nats_per_dim")
    if not isinstance(value, Estimate):
        return "Training and held-out images could not be compared."
    known = f"{value.value:.3g} ({value.low:.3g} to {value.high:.3g}) nats per dimension"
    if value.low > 0:
        return f"Training images are more likely than held-out ones, by {known}: a sign of memorisation."
    return f"Training images are not clearly more likely than held-out ones: {known}; no sign of memorisation."


def _pictures(found: Mapping[str, Densities], size: int) -> dict[str, Shown]:
    spread = likelihood_histograms({name: one.log_p / size for name, one in found.items()})
    both = energy_likelihood({name: (one.log_p / size, one.energies["energy"]) for name, one in found.items()})
    words = {"spread": "Log p of samples, held-out and training images.", "scatter": "Energy against log p."}
    figures = {"spread": spread, "scatter": both}
    return {name: Shown(figure=figures[name], alt=said, caption=said) for name, said in words.items()}
