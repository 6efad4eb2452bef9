"""Support of samples and rank correlations: against scikit-learn and scipy, closed forms, and the study."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KernelDensity, NearestNeighbors

from kinetic.cli.study import study
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.metrics import classifier
from kinetic.metrics.ranks import BLOCK, kendall_estimate, resampled, spearman_estimate, within_classes
from kinetic.metrics.statistics import Estimate
from kinetic.metrics.support import bandwidth_of, log_density, support_of
from kinetic.samples.parts import read_part
from kinetic.studies.support_findings import says
from kinetic.tensors import seeded_noise
from kinetic.trust import STRANGER
from tests.conftest import merged
from tests.test_callbacks_balance import TOY, trained

SAMPLES, TRAINING = seeded_noise(range(20), (6,)), seeded_noise(range(100, 170), (6,))


@pytest.mark.parametrize("chunk", [1, 7, 64, 8192])
def test_support_is_that_of_scikit_learn_whatever_the_chunk(chunk: int) -> None:
    """Kills: the mean instead of the k-th distance, k counted from 0, a missing normaliser, a chunk that overwrites."""
    found = support_of(SAMPLES, TRAINING, k=4, bandwidth=0.8, chunk=chunk)
    near = NearestNeighbors(n_neighbors=4).fit(TRAINING.double()).kneighbors(SAMPLES.double())[0][:, -1]
    density = KernelDensity(bandwidth=0.8, rtol=1e-12, atol=0).fit(TRAINING.double()).score_samples(SAMPLES.double())
    np.testing.assert_allclose(found.distance, near, rtol=1e-6)
    np.testing.assert_allclose(found.log_density, density, rtol=1e-7)


def test_density_far_away_ranks_where_it_underflows() -> None:
    """Kills: exp before the sum, and float32. Closed form for one training image."""
    far = torch.tensor([[1e3, 0.0], [2e3, 0.0]])
    found = log_density(far, torch.zeros(1, 2), 0.5)
    expected = [-(r**2) / (2 * 0.25) - math.log(2 * math.pi * 0.25) for r in (1e3, 2e3)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bandwidths_are_the_rules_that_are_stated() -> None:
    """Kills: sums of variances, an exponent of F + 2, distances that are squared."""
    rows = TRAINING.double().numpy()
    spread = math.sqrt(rows.var(0, ddof=1).mean())
    assert bandwidth_of(TRAINING) == pytest.approx(spread * stats.gaussian_kde(rows.T).scotts_factor())
    pairs = np.linalg.norm(rows[:, None] - rows[None], axis=2)[np.triu_indices(len(rows), 1)]
    assert bandwidth_of(TRAINING, "median") == pytest.approx(np.sort(pairs)[(len(pairs) - 1) // 2])


def test_support_does_not_change_under_a_rotation_and_a_shift() -> None:
    """Kills: a norm over some axes, a centre that is taken off one side alone."""
    turn = torch.linalg.qr(seeded_noise([5, 6, 7, 8, 9, 10], (6,))).Q
    one, other = support_of(SAMPLES, TRAINING), support_of(SAMPLES @ turn + 3, TRAINING @ turn + 3)
    np.testing.assert_allclose(one.distance, other.distance, rtol=1e-5)
    np.testing.assert_allclose(one.log_density, other.log_density, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"k": 71}, "k=71"),
        ({"bandwidth": 0.0}, "bandwidth must be above 0"),
        ({"bandwidth": "silverman"}, "unknown bandwidth"),
    ],
)
def test_what_has_no_support_is_one_line(options: dict, why: str) -> None:
    with pytest.raises(KineticError, match=why):
        support_of(SAMPLES, TRAINING, **options)
    with pytest.raises(KineticError, match="one extractor"):
        support_of(SAMPLES, TRAINING[:, :5], **options)


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.5])
def test_rank_correlations_of_gaussians_are_the_closed_forms(rho: float) -> None:
    """Kills: Pearson for Spearman, the two exchanged, an interval that is not about the value."""
    draw = np.random.default_rng(int(10 * rho + 20))
    a = draw.normal(size=2000)
    b = rho * a + math.sqrt(1 - rho**2) * draw.normal(size=2000)
    for made, truth in (
        (spearman_estimate(a, np.exp(b), repeats=200), 6 / math.pi * math.asin(rho / 2)),
        (kendall_estimate(a, np.exp(b), repeats=200), 2 / math.pi * math.asin(rho)),
    ):
        assert made.low < truth < made.high
        assert made.high - made.low < 0.1


def test_resamplings_of_kendall_are_those_of_scipy() -> None:
    """Kills: pairs counted once for a row that is drawn twice, τ-a for τ-b, a block of rows left out."""
    draw = np.random.default_rng(0)
    for count in (30, BLOCK + 3):
        a = draw.integers(6, size=count).astype(float)
        b = a + draw.integers(4, size=count)
        found = kendall_estimate(a, b, repeats=40)
        rows = resampled(count, 40, 0)
        drawn = [stats.kendalltau(a[one], b[one]).statistic for one in np.concatenate(rows)]
        np.testing.assert_allclose((found.low, found.high), np.quantile(drawn, [0.025, 0.975]), rtol=1e-5)
        assert found.value == stats.kendalltau(a, b).statistic
        spearman = [stats.spearmanr(a[one], b[one]).statistic for one in np.concatenate(rows)]
        made = spearman_estimate(a, b, repeats=40)
        np.testing.assert_allclose((made.low, made.high), np.quantile(spearman, [0.025, 0.975]))


@pytest.mark.parametrize("made", [spearman_estimate, kendall_estimate])
def test_correlations_that_do_not_exist_are_neither_0_nor_1(made) -> None:
    """Kills: NaN or 0 for constants, rows with NaN that are counted."""
    rising = np.arange(12.0)
    assert made(rising, rising).value == pytest.approx(1)
    with pytest.raises(KineticError, match="undefined: one of the columns is 3 throughout"):
        made(rising, np.full(12, 3.0))
    with pytest.raises(KineticError, match="at least 10 samples with finite numbers, got 9"):
        made(rising, np.where(rising < 3, np.nan, rising))


def test_ranks_within_classes_take_out_what_classes_explain() -> None:
    """Kills: ranks over all, classes too small kept. Two classes whose means explain everything but the inside."""
    labels = np.repeat([0, 1, 2], [20, 20, 2])
    inside = np.random.default_rng(1).normal(size=42)
    found = within_classes(inside + 100 * labels, labels)
    assert np.isnan(found[40:]).all()
    for label in (0, 1):
        np.testing.assert_allclose(found[labels == label], (stats.rankdata(inside[labels == label]) - 0.5) / 20)


def row(of: str, **rhos) -> dict:
    return {"features": "pixels", "of": of, **rhos}


@pytest.mark.parametrize(
    ("knn", "density", "words"),
    [
        ((-0.6, -0.7, -0.5), (-0.5, -0.6, -0.4), "agrees with the paper in sign"),
        ((0.6, 0.5, 0.7), (0.5, 0.4, 0.6), "contradicts the paper"),
        ((-0.6, -0.7, -0.5), (0.0, -0.1, 0.1), "agrees in part"),
        ((0.6, 0.5, 0.7), (-0.6, -0.7, -0.5), "not seen here"),
        ((0.0, -0.1, 0.1), (0.0, -0.1, 0.1), "not seen here"),
    ],
)
def test_the_verdict_follows_the_intervals(knn, density, words) -> None:
    """Kills: the sign turned round, a verdict without certainty, controls that are not mentioned."""
    own = row("energy", knn_rho=Estimate(*knn), density_rho=Estimate(*density))
    control = row("control: norm of the sample", knn_rho=Estimate(0.9, 0.8, 1), density_rho=Estimate(0.0, -0.1, 0.1))
    (first, *_) = says([own, control])
    assert words in first
    assert "norm of the sample gives 0.90 (nearest neighbours)" in first
    assert "the notes say why" in says([{**own, "note": "none"}])[0]


@pytest.mark.filterwarnings("ignore")
def test_study_of_points_beside_a_brute_force(tiny, capsys) -> None:
    """Kills: distances instead of support, seeds and samples that do not match, a fault that takes other rows along."""
    run = trained(tiny(**TOY))
    options = ["--num", "40", "--steps", "8", "--neighbors", "2", "--batch-size", "16"]
    study(["support", "made", *options, "--features", "pixels"])
    folder = run / "studies" / "support"
    found = json.loads((folder / "study.json").read_text())
    names = found["table"]["of"]
    assert names[0] == "energy"
    assert {"late_fraction", "final_power", "control: norm of the sample", "energy of no copies"} <= set(names)
    assert "per_dim_energy" not in names
    assert "field_energy" not in names
    x, energy = drawn(folder)
    training = np.concatenate([part.numpy() for part, _, _ in data_of(run).reference()])
    distance = np.sort(np.linalg.norm(x[:, None] - training[None], axis=2), axis=1)[:, 1]
    assert found["table"]["knn_rho"][0] == pytest.approx(-stats.spearmanr(energy, distance).statistic, abs=1e-3)
    assert found["table"]["knn_tau"][0] == pytest.approx(-stats.kendalltau(energy, distance).statistic, abs=1e-3)
    control = names.index("control: norm of the sample")
    norm = np.linalg.norm(x, axis=1)
    assert found["table"]["knn_rho"][control] == pytest.approx(-stats.spearmanr(norm, distance).statistic, abs=1e-3)
    noise = seeded_noise(range(40), (2,)).norm(dim=1).numpy()
    by_noise = found["table"]["knn_rho"][names.index("control: norm of its noise")]
    assert by_noise == pytest.approx(-stats.spearmanr(noise, distance).statistic, abs=1e-3)
    assert found["protocol"]["neighbors"] == 2
    assert {"energies.png", "correlations.png", "report.html", "table.md"} <= {p.name for p in folder.iterdir()}
    capsys.readouterr()
    faulty = ["--features", "classifier", "--features", "timm:resnet18@none.pth", "--features", "pixels"]
    study(["support", "made", *options, "--split", "held-out", *faulty])
    said = capsys.readouterr().out
    assert "classifier: a classifier needs labelled images" in said
    again = json.loads((folder / "study.json").read_text())["table"]
    assert again["features"].count("pixels") == len(names)
    assert again["knn_rho"][2] != found["table"]["knn_rho"][0]  # other images


def data_of(run: Path):
    return open_data(run, STRANGER)


def drawn(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    parts = [read_part(path) for path in sorted(folder.rglob("*.npz"))]
    order = np.argsort(np.concatenate([part.table.seeds for part in parts]))
    x = np.concatenate([part.x for part in parts])[order]
    return x, np.concatenate([part.table.columns["energy"] for part in parts])[order]


@pytest.mark.filterwarnings("ignore")
def test_study_of_classes_and_of_the_training_set_itself(tiny, monkeypatch) -> None:
    """Kills: no rows within classes, few samples that end everything, copies that are kept among no copies."""
    monkeypatch.setattr(classifier, "STEPS", (5, 5))
    network = {"init_args": {"num_classes": 10}}
    run = trained(tiny(network=network, data={"init_args": {"num_train": 60, "num_val": 20}}))
    study(["support", "made", "--num", "40", "--steps", "4"])
    table = json.loads((run / "studies/support/study.json").read_text())["table"]
    assert "energy within classes" in table["of"]
    assert dict.fromkeys(table["features"]) == dict.fromkeys(["pixels", "pca:16", "classifier"])
    study(["support", "made", "--num", "12", "--steps", "30", "--empirical", "--features", "pixels", "--out", "there"])
    table = json.loads(Path("there/study.json").read_text())["table"]
    assert "at least 10 samples" in table["note"][table["of"].index("energy of no copies")]


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_studied_is_one_line(tiny) -> None:
    run = trained(tiny(**merged(TOY, {"trainer": {"callbacks": []}})))
    Path("alone.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    for args, why in (
        (["made", "--neighbors", "0"], "--neighbors"),
        (["made", "--bandwidth", "-1"], "--bandwidth must be"),
        (["made", "--features", "eigenfaces"], "unknown features"),
        (["--checkpoint", "alone.ckpt"], "lies in no run"),
    ):
        with pytest.raises(KineticError, match=why):
            study(["support", *args])
    study(["support", "made", "--num", "4", "--steps", "4"])
    note = json.loads((run / "studies/support/study.json").read_text())["table"]["note"]
    assert all("at least 10 samples with finite numbers" in one for one in note)
