"""The study of likelihoods: intervals, the command from end to end, and what is refused or left out."""

import csv
from pathlib import Path

import numpy as np
import pytest

import kinetic.studies.subject
from kinetic.cli.study import study
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.flow.likelihood import bits_per_dim, dequantised, log_likelihood
from kinetic.flow.sampling import Sampler, draw
from kinetic.models.opening import open_run
from kinetic.plots import energy_likelihood, likelihood_histograms
from kinetic.studies import subject
from kinetic.studies.likelihood import Densities, correlations
from kinetic.trust import STRANGER
from tests.test_callbacks_balance import TOY, trained

WARNINGS = pytest.mark.filterwarnings("ignore")


def table(run: Path, file: str = "table") -> list[dict[str, str]]:
    with open(run / "studies" / "likelihood" / f"{file}.csv", newline="") as rows:
        return list(csv.DictReader(rows))


def gone(*_, **__):
    raise KineticError("the images are gone")


def test_constant_energies_have_no_correlation_and_the_others_survive():
    """Kills: a correlation of 0 or 1 for what is undefined."""
    log_p = np.arange(12.0)
    rows = correlations(
        "samples", Densities(log_p=log_p, energies={"energy": -log_p, "early": log_p * 0, "late": log_p})
    )
    assert rows[0]["spearman"].value == pytest.approx(-1)
    assert rows[2]["kendall"].value == pytest.approx(1)
    assert "spearman" not in rows[1]
    assert "the correlation is undefined: one of the columns is 0 throughout" in rows[1]["note"]


@WARNINGS
def test_command_on_pictures_with_classes(tiny, capsys, monkeypatch):
    """Against numbers made by hand. Kills: no dequantisation, labels left out, held-out for training images.

    Also the expected time: 60 evaluations a batch of a second, and five more for each by the divergence.
    """
    monkeypatch.setattr(kinetic.studies.subject, "seconds_a_batch", lambda *_: 1.0)
    run = trained(tiny(network={"init_args": {"num_classes": 10}}, data={"init_args": {"num_train": 60}}))
    command = ["likelihood", "made", "--num", "10", "--images", "5", "--steps", "3", "--probes", "4"]
    study(command)
    said = capsys.readouterr()
    assert ": Spearman" in said.out
    assert "drawing 10 samples, 60 evaluations of the network: about 36 s" in said.err
    rows = {row["of"]: row for row in table(run)}
    assert list(rows) == ["samples", "held-out", "training", "training less held-out"]
    origin, sampler = open_run("made"), Sampler(method="heun2", steps=3)
    for name, held_out in (("held-out", True), ("training", False)):
        ((x, numbers, labels),) = open_data(run, STRANGER).labelled(held_out=held_out, limit=5)
        back = log_likelihood(origin.field, dequantised(x, numbers), labels=labels, sampler=sampler, probes=4)
        log_p = back.log_likelihood.double()
        assert float(rows[name]["nats_per_dim"]) == pytest.approx(float(log_p.mean()) / 64, rel=1e-4)
        assert float(rows[name]["bits_per_dim"]) == pytest.approx(float(bits_per_dim(log_p, 64).mean()), rel=1e-4)
    energy = draw(origin.field, range(10), labels=[*range(10)], sampler=sampler).energy
    assert float(rows["samples"]["energy"]) == pytest.approx(float(energy.mean()), rel=1e-4)
    assert rows["samples"]["protocol_divergence"].startswith("4 orthogonal probes")
    study(command)
    assert "are in" in capsys.readouterr().err  # nothing is drawn again


@WARNINGS
def test_points_have_no_bits_and_an_exact_divergence(tiny, monkeypatch):
    """Kills: bits of what has no levels, probes where exactness is cheap, noise added to points."""
    run = trained(tiny(**TOY))
    study(["likelihood", "made", "--num", "12", "--images", "9", "--steps", "4"])
    rows = table(run)
    assert "bits_per_dim" not in rows[0]
    assert rows[0]["protocol_divergence"] == "exact"
    ((x, _, _),) = open_data(run, STRANGER).labelled(held_out=True, limit=9)
    back = log_likelihood(open_run("made").field, x, sampler=Sampler(method="heun2", steps=4))
    assert float(rows[1]["nats_per_dim"]) == pytest.approx(float(back.log_likelihood.mean()) / 2, rel=1e-5)
    monkeypatch.setattr(subject, "open_data", gone)
    study(["likelihood", "made", "--num", "12", "--steps", "4"])
    assert table(run)[0]["nats_per_dim"] == rows[0]["nats_per_dim"]
    assert [row["note"] for row in table(run)] == ["", "the images are gone", "the images are gone"]
    with pytest.raises(KineticError, match="the closed-form field has no likelihood: it flows onto its training"):
        study(["likelihood", "made", "--empirical"])
    with pytest.raises(KineticError, match="probes must be at least 1, got 0"):
        study(["likelihood", "made", "--probes", "0"])


def test_pictures_of_nothing():
    """Kills: a figure that raises where all numbers are NaN."""
    nothing = np.full(3, np.nan)
    assert likelihood_histograms({"samples": nothing}).axes
    assert energy_likelihood({"samples": (nothing, nothing)}).axes
