"""Samples by their energy: deciles, the band that is worth keeping, and drawing from a band."""

import numpy as np
import pytest
import torch
import yaml

from kinetic.cli.sample import sample
from kinetic.cli.study import STUDIES, study
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler, draw
from kinetic.metrics.real import RealFeatures
from kinetic.models.opening import open_run
from kinetic.samples.band import Band
from kinetic.studies.goldilocks import Measured, check_energies, choose, decile_rows, deciles_of, random_parts
from tests.conftest import copied, csv_rows, run_once
from tests.test_sample_command import refused

CHANGES = {
    "data": {"init_args": {"num_train": 20, "num_val": 100}},
    "trainer": {"max_steps": 4, "val_check_interval": 4},
    "model": {"samples": {"num": 0}},
}
QUICK = ["--accelerator", "cpu", "--steps", "6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run_once(tmp_path_factory, "energies", CHANGES)


@pytest.fixture
def run(trained, workdir):
    return copied(trained, workdir)


@pytest.mark.parametrize(
    ("text", "low", "high", "quantiles"),
    [("30:45", 30, 45, False), ("10%:80%", 0.1, 0.8, True), (":45", -np.inf, 45, False), ("60%:", 0.6, 1, True)],
)
def test_bands_are_read_as_they_are_written(text, low, high, quantiles):
    band = Band.parse(text)
    assert (band.low, band.high, band.quantiles) == (low, high, quantiles)
    assert Band.parse(band.text) == band


@pytest.mark.parametrize("text", ["30", "45:30", "10%:80", "a:b", ":", "10%:110%", "1:2:3", "5:5"])
def test_bands_that_are_none_are_refused(text):
    with pytest.raises(KineticError, match="--keep-energy"):
        Band.parse(text)


def test_quantiles_are_those_of_finite_energies():
    """Kills: NaN that counts, an end that is left out."""
    energies = np.array([5.0, np.nan, 1.0, 2.0, 3.0, 4.0, np.inf])
    assert Band.parse("25%:75%").keeps(energies).tolist() == [False, False, False, True, True, True, False]
    assert Band.parse("2:4").keeps(energies).sum() == 3
    assert Band.parse("3:").keeps(energies).tolist() == [True, False, False, False, True, True, False]
    assert not Band.parse("0%:50%").keeps(np.array([np.nan])).any()


def test_sampling_keeps_the_band_and_says_what_it_discards(run, capsys):
    """Kills: other samples than those of the same seeds, a band of what is kept instead of what is drawn."""
    sample(["run", "--num", "10", "--keep-energy", "25%:75%", *QUICK])
    origin = open_run("run")
    energy = draw(origin.field, range(20), sampler=Sampler(steps=6)).energy.double().numpy()
    low, high = np.quantile(energy, [0.25, 0.75])
    expected = np.flatnonzero((energy >= low) & (energy <= high))[:10]
    folder = run / "sampling/off-kept"
    kept = csv_rows(folder / "energies.csv")
    assert [int(row["seed"]) for row in kept] == expected.tolist()
    assert np.load(folder / "samples.npz")["arr_0"].shape[0] == 10
    assert len(list((folder / "images").glob("*.png"))) == 10
    assert f"chosen of 20 for an energy of {low:.4g}" in capsys.readouterr().out
    assert yaml.safe_load((folder / "sample.yaml").read_text())["keep_energy"] == "25%:75%"


def test_sampling_goes_on_until_enough_lie_in_a_band_of_values(run, capsys):
    energy = draw(open_run("run").field, range(60), sampler=Sampler(steps=6)).energy
    low, high = sorted(energy.tolist())[20], sorted(energy.tolist())[40]
    args = ["run", "--keep-energy", f"{low:.6f}:{high:.6f}", *QUICK]
    sample([*args, "--num", "12"])
    found = [float(row["energy"]) for row in csv_rows(run / "sampling/off-kept/energies.csv")]
    assert len(found) == 12
    assert low - 1e-3 <= min(found) < max(found) <= high + 1e-3
    first = [row["seed"] for row in csv_rows(run / "sampling/off-kept/energies.csv")]
    sample([*args, "--num", "5"])
    assert [row["seed"] for row in csv_rows(run / "sampling/off-kept/energies.csv")] == first[:5]
    with pytest.raises(KineticError, match="0 of 100 samples have such an energy, 2 are wanted; they run from"):
        sample(["run", "--num", "2", "--keep-energy", "1e6:", "--overwrite", *QUICK])
    assert "do not go together" in refused(capsys, "run", "--seeds", "0-3", "--keep-energy", "1:2", *QUICK)


def test_deciles_have_as_many_samples_each():
    energy = np.random.default_rng(0).normal(size=205)
    decile = deciles_of(energy)
    assert sorted(np.bincount(decile)) == [20] * 5 + [21] * 5
    assert energy[decile == 3].max() < energy[decile == 4].min()
    with pytest.raises(KineticError, match="need 200 finite samples, there are 60"):
        check_energies(energy[:60])
    with pytest.raises(KineticError, match="the same energy"):
        check_energies(np.ones(300))


def test_a_band_without_copies_is_found_and_recommended():
    """Copies are the top three deciles. Kills: a band that keeps them, a verdict on the half that chose."""
    energy = np.random.default_rng(1).permutation(600).astype(float)
    copied = energy >= 420
    found = choose(Measured(energy=energy, copied=copied, features=None), None, least=0.5, tolerance=0.05)
    assert found.recommended
    assert found.band.high <= 0.7
    assert found.samples == 300
    assert found.fall.value == pytest.approx(0.3, abs=0.03)
    chance = np.random.default_rng(2).random(600) < 0.3
    assert not choose(
        Measured(energy=energy, copied=chance, features=None), None, least=0.5, tolerance=0.05
    ).recommended


def test_a_band_that_costs_quality_is_not_taken():
    """Low energies are far off and free of copies. Kills: copies traded for any loss of quality."""
    noise = torch.Generator().manual_seed(0)
    energy = np.random.default_rng(3).permutation(600).astype(float)
    features = torch.randn(600, 4, generator=noise)
    features[torch.from_numpy(energy < 300)] += 6
    real = RealFeatures.of(torch.randn(200, 4, generator=noise))
    measured = Measured(energy=energy, copied=energy >= 300, features=features)
    found = choose(measured, real, least=0.5, tolerance=0.05)
    assert found.band is None or found.band.high > 0.5
    table = decile_rows(measured, real)
    assert [row["F_mem"].value for row in table] == [0] * 5 + [1] * 5
    assert table[0]["fd"] > 50 > 5 > table[9]["fd"]
    assert table[0]["precision"] < 0.1 < 0.5 < table[9]["precision"]


def test_random_parts_are_no_better_than_the_whole():
    noise = torch.Generator().manual_seed(0)
    real = RealFeatures.of(torch.randn(200, 4, generator=noise))
    few, many = (random_parts(torch.randn(400, 4, generator=noise), size, real)["fd"] for size in (30, 300))
    assert few.low <= few.value <= few.high
    assert few.value > many.value


def test_study_of_deciles(run, capsys):
    study(["goldilocks", "run", "--num", "200", *QUICK])
    table = csv_rows(run / "studies/goldilocks/table.csv")
    assert [row["samples"] for row in table] == ["20"] * 10
    assert float(table[0]["energy_to"]) < float(table[9]["energy_from"])
    assert "band of energies" in capsys.readouterr().out.replace("Keep energies", "band of energies")
    assert (run / "studies/goldilocks/deciles.png").is_file()
    with pytest.raises(KineticError, match="need 200 finite samples, there are 50"):
        study(["goldilocks", "run", "--num", "50", "--out", "few", *QUICK])
    with pytest.raises(KineticError, match="--least is a share"):
        study(["goldilocks", "run", "--least", "2", *QUICK])


def test_all_studies_are_made_and_one_that_cannot_be_leaves_the_others(run, capsys):
    """Kills: options that get lost, a failure that ends all, an error that passes for success."""
    others = ",".join(name for name in STUDIES if name not in ("balance", "goldilocks"))
    study(["all", "run", "--skip", others, "--num", "30", *QUICK])
    said = capsys.readouterr().out
    assert "goldilocks" in said
    assert "left out: deciles of two halves need 200 finite samples, there are 30" in said
    lines = {line.split()[0]: line for line in said.splitlines() if line.split()[-1:] == ["done"]}
    assert "balance" in lines
    assert "kts" not in lines
    with pytest.raises(KineticError, match="--out names one folder"):
        study(["all", "run", "--out", "x"])
    with pytest.raises(KineticError, match="unknown study 'one'"):
        study(["all", "run", "--skip=one"])
