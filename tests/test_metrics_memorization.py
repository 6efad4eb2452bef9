"""F_mem, its interval, the onset, and the metric over several processes."""

import math

import pytest
import torch
from torch import Tensor

from kinetic.memorization.copies import measure, memorization, summarize
from kinetic.memorization.onset import Validation, find_onset
from kinetic.metrics.neighbors import nearest
from kinetic.metrics.reference import ReferenceIndex
from kinetic.metrics.statistics import wilson


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_training_set_scores_one() -> None:
    result = memorization(images(80), images(80))
    assert (result.f_mem, result.copied, result.total, result.mean_d1) == (1, 80, 80, 0)
    assert result.high == 1
    assert torch.equal(result.column("neighbor"), torch.arange(80))
    assert (result.column("ratio") == 0).all()


def test_gaussian_noise_scores_zero() -> None:
    noise = torch.randn(80, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    result = memorization(noise, images(80))
    assert (result.f_mem, result.low, result.copied) == (0, 0, 0)
    assert 0 < result.high < 0.06


def test_the_training_set_with_duplicates_still_scores_one() -> None:
    reference = torch.cat([images(40), images(40)])
    assert memorization(reference, reference).f_mem == 1
    assert memorization(reference + 1e-3, reference).f_mem == 1


def test_held_out_images_of_the_same_kind_score_about_zero() -> None:
    assert memorization(images(100, seed=1), images(100)).copied == 0


@pytest.mark.parametrize(("ratio", "copied"), [(0.32, 1), (0.34, 0)])
def test_the_threshold_is_a_third_of_the_second_distance(ratio: float, copied: int) -> None:
    reference = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    sample = torch.tensor([[ratio / (1 + ratio), 0.0]])
    result = memorization(sample, reference)
    assert result.copied == copied
    assert float(result.column("ratio")) == pytest.approx(ratio, rel=1e-6)
    assert memorization(sample, reference, threshold=0.33).copied == copied
    assert memorization(sample, reference, threshold=0.5).copied == 1


def test_a_mirrored_copy_counts_where_flips_are_on() -> None:
    mirrored = images(30).flip(-1)
    assert memorization(mirrored, images(30)).f_mem < 0.1
    assert memorization(mirrored, images(30), flip=True).f_mem == 1


def test_samples_that_are_not_finite_are_counted_and_keep_the_rows_aligned() -> None:
    samples = images(6)
    samples[1] = math.nan
    samples[4, 0, 2, 2] = math.inf
    seeds = torch.tensor([50, 40, 30, 20, 10, 0])
    result = memorization(samples, images(20), index=seeds)
    assert (result.total, result.nonfinite, result.copied) == (6, 2, 4)
    assert result.f_mem == pytest.approx(4 / 6)
    assert result.mean_d1 == 0
    assert result.column("index").tolist() == [0, 10, 20, 30, 40, 50]
    assert result.column("neighbor").tolist() == [5, -1, 3, 2, -1, 0]
    assert result.column("finite").tolist() == [True, False, True, True, False, True]
    assert result.column("copied").tolist() == [True, False, True, True, False, True]
    assert result.column("d1").isnan().tolist() == [False, True, False, False, True, False]


def test_only_samples_that_are_not_finite() -> None:
    result = memorization(torch.full((2, 1, 6, 6), math.nan), images(5))
    assert (result.f_mem, result.nonfinite) == (0, 2)
    assert math.isnan(result.mean_d1)


def test_batches_order_and_repeated_rows_change_nothing() -> None:
    samples, seeds = torch.cat([images(30)[:7] + 1e-3, images(20, seed=1)]), torch.arange(27) * 3
    index = ReferenceIndex.build(images(30))
    whole = memorization(samples, index, index=seeds)
    order = torch.randperm(27, generator=torch.Generator().manual_seed(0))
    rows = [measure(samples[part], index, seeds[part]) for part in torch.cat([order, order[:5]]).split(4)]
    result = summarize(torch.cat(rows))
    assert result.total == 27
    assert torch.equal(result.table, whole.table)
    assert result[:-1] == whole[:-1]
    assert torch.equal(result.table[:, 1], nearest(samples, index).distances[:, 0])
    one = summarize(measure(samples[:1], index, seeds[:1]))
    assert one.total == 1
    assert one.column("d1").shape == (1,)


def test_no_samples() -> None:
    result = summarize(torch.empty(0, 7, dtype=torch.float64))
    assert (result.low, result.high, result.total) == (0, 1, 0)
    assert math.isnan(result.f_mem)


def test_large_seeds_keep_their_identity() -> None:
    seeds = torch.tensor([2**53 - 1, 2**53 - 2])
    assert memorization(images(2), images(5), index=seeds).column("index").tolist() == [2**53 - 2, 2**53 - 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memorization(images(2), images(1)), "F_mem needs at least two distinct training images, got 1"),
        (lambda: memorization(images(2), images(1).repeat(9, 1, 1, 1)), "two distinct training images, got 1"),
        (lambda: memorization(images(2), images(5), threshold=0.0), r"threshold must lie in \(0, 1\], got 0.0"),
        (lambda: memorization(images(2), ReferenceIndex.build(images(5)), flip=True), "without flips"),
        (lambda: memorization(images(3), images(5), index=torch.arange(2)), "3 samples with 2 indices"),
        (lambda: memorization(images(1), images(5), index=torch.tensor([2**53])), "integers below"),
        (lambda: memorization(images(1), images(5), index=torch.tensor([0.5])), "integers below"),
        (lambda: memorization(images(1), images(5)).column("d3"), "'d3'; choose from index, d1"),
        (lambda: wilson(3, 2), "between 0 and the total 2, got 3"),
    ],
)
def test_bad_input_gets_one_line(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0, 0.277533), (5, 10, 0.236593, 0.763407), (10, 10, 0.722467, 1), (1, 100, 0.001767, 0.054486)],
)
def test_wilson_known_values(successes: int, total: int, low: float, high: float) -> None:
    assert wilson(successes, total) == pytest.approx((low, high), abs=2e-6)


def test_wilson_edges() -> None:
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 7)[0] == 0
    assert wilson(7, 7)[1] == 1


def point(step: int, low: float) -> Validation:
    return Validation(step=step, epoch=step // 10, f_mem=low + 0.05, low=low, high=low + 0.1)


def test_onset_is_the_first_interval_above_that_of_the_null() -> None:
    history = [point(400, 0.3), point(100, 0.0), point(200, 0.02), point(300, 0.021)]
    onset = find_onset(history, null_f_mem=0.0, null_high=0.02)
    assert onset is not None
    assert (onset.at.step, onset.before.step if onset.before else None, onset.null_high) == (300, 200, 0.02)


def test_onset_at_the_first_validation_or_never() -> None:
    first = find_onset([point(100, 0.5)], null_f_mem=0.0, null_high=0.02)
    assert first is not None
    assert first.before is None
    assert find_onset([point(100, 0.01), point(200, math.nan)], null_f_mem=0.0, null_high=0.02) is None
    assert find_onset([], null_f_mem=0.0, null_high=0.0) is None


def test_summary_of_unsorted_repeated_rows_keeps_the_first() -> None:
    rows = torch.tensor([[3, 1, 2, 0.5, 0, 1, 0], [1, 1, 9, 0.1, 4, 1, 1], [3, 0, 2, 0, 0, 1, 1]], dtype=torch.float64)
    result = summarize(rows)
    assert (result.copied, result.total, result.mean_d1) == (1, 2, 1)
