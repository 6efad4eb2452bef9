"""Rank statistics against SciPy and scikit-learn, and where they are undefined."""

import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from kinetic.metrics.statistics import auroc, signal_table, spearman


def draw(seed: int, count: int = 200) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("digits", [1, 6])  # one decimal makes many ties
def test_spearman_agrees_with_scipy(digits: int) -> None:
    a, b = draw(0).round(decimals=digits), (draw(0) + draw(1)).round(decimals=digits)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a.numpy(), b.numpy())[0], abs=1e-12)
    assert spearman(a, -a.exp()) == pytest.approx(-1)


@pytest.mark.parametrize("digits", [0, 6])
def test_auroc_agrees_with_scikit_learn(digits: int) -> None:
    score = draw(0).round(decimals=digits)
    copied = draw(0) + draw(1) > 0.5
    assert auroc(score, copied) == pytest.approx(roc_auc_score(copied.numpy(), score.numpy()), abs=1e-12)


def test_auroc_known_values() -> None:
    copied = torch.tensor([False, False, True, True])
    assert auroc(torch.tensor([1.0, 2.0, 3.0, 4.0]), copied) == 1
    assert auroc(torch.tensor([4.0, 3.0, 2.0, 1.0]), copied) == 0
    assert auroc(torch.ones(4), copied) == 0.5


def test_values_that_are_not_finite_are_left_out_together() -> None:
    a, b = draw(0, 20), draw(1, 20)
    expected = spearman(a[2:18], b[2:18])
    a[0], a[1], b[18], b[19] = math.nan, math.inf, -math.inf, math.nan
    assert spearman(a, b) == expected
    copied = b > 0
    assert auroc(a, copied) == auroc(a[2:], copied[2:])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([1.0, 2.0], [2.0, 3.0]),
        ([1.0, 2.0, math.nan], [2.0, 3.0, 4.0]),
        ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, math.nan]),
    ],
)
def test_spearman_is_undefined(a: list[float], b: list[float]) -> None:
    assert spearman(torch.tensor(a), torch.tensor(b)) is None


@pytest.mark.parametrize("copied", [[True, True, True], [False, False, False], [False, False, True]])
def test_auroc_is_undefined_without_both_kinds(copied: list[bool]) -> None:
    assert auroc(torch.tensor([1.0, 2.0, math.nan]), torch.tensor(copied)) is None


def test_the_table_leaves_out_samples_without_distances() -> None:
    ratio, energy = draw(1, 30).abs(), draw(0, 30)
    copied = ratio < 1 / 3
    ratio[4], copied[4], energy[9] = math.nan, False, math.inf  # a failed sample is no negative example
    keep = torch.ones(30, dtype=torch.bool)
    keep[[4, 9]] = False
    rows = signal_table({"energy": energy, "drift": ratio.nan_to_num()}, ratio, copied)
    assert [row.name for row in rows] == ["energy", "drift"]
    assert rows[0].rho == pytest.approx(spearman(energy[keep], ratio[keep]))
    assert rows[0].auroc == pytest.approx(roc_auc_score(copied[keep].numpy(), energy[keep].numpy()))
    assert (rows[0].n, rows[0].copies) == (28, int(copied[keep].sum()))
    assert (rows[1].rho, rows[1].auroc, rows[1].n) == (pytest.approx(1), 0, 29)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \[N\], got \(3,\) and \(2,\)"):
        spearman(torch.ones(3), torch.ones(2))
