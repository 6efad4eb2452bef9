"""Rank correlations: closed forms of a Gaussian, a second implementation, intervals that cover, undefined cases."""

import math

import numpy as np
import pytest
from scipy import stats

from kinetic.errors import KineticError
from kinetic.metrics.correlation import rank_correlation


def gaussian(rho, n, seed=0):
    draw = np.random.default_rng(seed)
    a, z = draw.standard_normal((2, n))
    return a, rho * a + math.sqrt(1 - rho**2) * z


@pytest.mark.parametrize("rho", [-0.65, 0.3])
def test_gaussian_pairs_have_the_closed_forms(rho):
    """Kills: Pearson's coefficient in the place of either, or one in the place of the other."""
    a, b = gaussian(rho, 20_000)
    spearman = rank_correlation(a, b, repeats=2).value
    kendall = rank_correlation(a, b, kind="kendall", repeats=2).value
    assert spearman == pytest.approx(6 / math.pi * math.asin(rho / 2), abs=0.02)
    assert kendall == pytest.approx(2 / math.pi * math.asin(rho), abs=0.02)


def test_ties_and_monotone_maps():
    """Kills: ranks without ties shared, values in the place of ranks."""
    draw = np.random.default_rng(1)
    a, b = draw.integers(5, size=(2, 60))
    assert rank_correlation(a, b, repeats=2).value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(np.exp(a), -1.0 * b, repeats=2).value == pytest.approx(-stats.spearmanr(a, b).statistic)
    assert rank_correlation(a, a, kind="kendall", repeats=2).value == pytest.approx(1)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Kills: sides resampled apart (an interval about 0), or an interval of the mean's width."""
    truth, hits = 6 / math.pi * math.asin(0.25), 0
    for seed in range(40):
        found = rank_correlation(*gaussian(0.5, 80, seed), repeats=100, seed=seed)
        hits += found.low <= truth <= found.high
    assert hits >= 33
    a, b = gaussian(0.5, 80)
    assert rank_correlation(a, b) == rank_correlation(a, b)
    assert rank_correlation(a, b, seed=1).low != rank_correlation(a, b).low


def test_rows_that_are_not_finite_are_left_out():
    """Kills: NaN spreading, or counted as the largest value."""
    a, b = gaussian(0.5, 30)
    more = np.append(a, [np.nan, 1.0, np.inf]), np.append(b, [0.0, np.nan, 1.0])
    assert rank_correlation(*more) == rank_correlation(a, b)


def test_what_is_undefined_is_refused():
    """Kills: a constant column that counts as 0 or 1."""
    with pytest.raises(KineticError, match="energies and densities is undefined: one of them is the same for all 9"):
        rank_correlation(np.ones(9), np.arange(9), names="energies and densities")
    with pytest.raises(KineticError, match="needs 3 finite pairs or more, got 2"):
        rank_correlation([1, 2, np.nan], [1, 2, 3])
    with pytest.raises(KineticError, match=r"one shape \[N\]"):
        rank_correlation([1, 2, 3], [1, 2])
    with pytest.raises(KineticError, match="choose from spearman, kendall"):
        rank_correlation([1, 2, 3], [1, 2, 4], kind="pearson")
