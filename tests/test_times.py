"""Random times and dropped labels: their distributions, their ranges, and what they depend on."""

import math

import pytest
import torch
from scipy import stats

from kinetic.tensors import generator
from kinetic.training.times import KINDS, LAST, TrainingTimes, draw_times, drop_labels, validation_times


@pytest.mark.parametrize("kind", ["uniform", "stratified"])
def test_flat_kinds_are_uniform(kind):
    t = draw_times(20_000, generator(1), TrainingTimes(kind))
    assert stats.kstest(t.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 1.3), (1.2, 0.4)])
def test_logit_normal_has_the_stated_mean_and_std(mean, std):
    t = draw_times(20_000, generator(2), TrainingTimes("logit_normal", mean=mean, std=std))
    logits = torch.logit(t.double())
    assert stats.kstest(logits.numpy(), "norm", args=(mean, std)).pvalue > 0.01


@pytest.mark.parametrize("n", [1, 2, 7, 128, 1000, 200_003])
def test_stratified_has_exactly_one_time_in_each_stratum(n):
    t = draw_times(n, generator(3, n), TrainingTimes("stratified"))
    strata = (t.double() * n).floor().long()
    assert torch.equal(strata.sort().values, torch.arange(n))


def test_stratified_fills_its_strata_and_comes_in_random_order():
    t = draw_times(5000, generator(4), TrainingTimes("stratified")).double()
    assert stats.kstest((t * 5000 % 1).numpy(), "uniform").pvalue > 0.01  # not midpoints
    assert abs(stats.spearmanr(t.numpy(), range(5000)).statistic) < 0.05
    assert not torch.equal(t.argsort(), draw_times(5000, generator(5), TrainingTimes("stratified")).argsort())


@pytest.mark.parametrize("kind", KINDS)
def test_times_depend_on_the_generator_alone(kind):
    torch.manual_seed(0)
    first = draw_times(64, generator(7, 0, 3), TrainingTimes(kind))
    torch.manual_seed(1)
    assert torch.equal(first, draw_times(64, generator(7, 0, 3), TrainingTimes(kind)))
    assert not torch.equal(first, draw_times(64, generator(7, 1, 3), TrainingTimes(kind)))
    advancing = generator(7, 0, 3)
    assert torch.equal(first, draw_times(64, advancing, TrainingTimes(kind)))
    assert not torch.equal(first, draw_times(64, advancing, TrainingTimes(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_times_are_float32_below_one_and_may_be_none(kind):
    t = draw_times(300_000, generator(8), TrainingTimes(kind))
    assert t.dtype == torch.float32
    assert t.min() >= 0
    assert t.max() < 1
    assert draw_times(0, generator(8), TrainingTimes(kind)).shape == (0,)


def test_extreme_logit_normals_stop_before_one():
    t = draw_times(100, generator(9), TrainingTimes("logit_normal", mean=60.0))
    assert t.eq(LAST).all()  # the sigmoid rounds to 1
    assert t.max() < 1
    low = draw_times(100, generator(9), TrainingTimes("logit_normal", mean=-200.0))
    assert low.ge(0).all()


@pytest.mark.parametrize("n", [1, 2, 6, 10, 233, 2000])
def test_validation_times_are_the_midpoints_in_a_fixed_order(n):
    t = validation_times(n)
    assert t.dtype == torch.float32
    torch.testing.assert_close(t.sort().values, (torch.arange(n) + 0.5) / n)
    assert torch.equal(t, validation_times(n))
    assert t.max() < 1


@pytest.mark.parametrize("n", [60, 128, 1000, 1797])
def test_each_validation_batch_covers_all_times(n):
    t, size = validation_times(n), 16
    for start in range(n - size):
        ordered = t[start : start + size].sort().values
        gaps = torch.cat([ordered[:1], ordered.diff(), 1 - ordered[-1:]])
        assert gaps.max() < 3 / size


def test_no_validation_times():
    assert validation_times(0).shape == (0,)


def test_labels_drop_at_their_frequency_and_the_rest_stay():
    labels = torch.arange(20_000) % 10
    dropped = drop_labels(labels, 0.1, 10, generator(10))
    gone = dropped == 10
    assert abs(gone.float().mean().item() - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 20_000)
    assert torch.equal(dropped[~gone], labels[~gone])
    assert dropped.dtype == torch.int64
    assert labels.max() == 9  # the input is left alone
    assert stats.chisquare(torch.bincount(labels[gone], minlength=10).numpy()).pvalue > 0.01


def test_dropping_none_all_and_the_empty_batch():
    labels = torch.arange(500)
    assert torch.equal(drop_labels(labels, 0.0, 1000, generator(11)), labels)
    assert drop_labels(labels, 1.0, 1000, generator(11)).eq(1000).all()
    assert drop_labels(labels[:0], 0.5, 1000, generator(11)).shape == (0,)


def test_dropping_takes_the_same_randomness_at_every_probability():
    following = []
    for probability in (0.0, 0.3, 1.0):
        g = generator(12)
        drop_labels(torch.zeros(9, dtype=torch.int64), probability, 1, g)
        following.append(torch.rand(3, generator=g))
    assert torch.equal(following[0], following[1])
    assert torch.equal(following[0], following[2])


def test_dropping_depends_on_the_generator_alone():
    labels = torch.zeros(200, dtype=torch.int64)
    first = drop_labels(labels, 0.5, 1, generator(13))
    assert torch.equal(first, drop_labels(labels, 0.5, 1, generator(13)))
    assert not torch.equal(first, drop_labels(labels, 0.5, 1, generator(14)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_device_drop_as_on_the_cpu():
    labels = torch.arange(100)
    answer = drop_labels(labels.cuda(), 0.4, 100, generator(15))
    assert answer.is_cuda
    assert torch.equal(answer.cpu(), drop_labels(labels, 0.4, 100, generator(15)))


def test_bad_values_are_named():
    g = generator(16)
    with pytest.raises(ValueError, match="unknown kind of times 'beta': choose from uniform, stratified, logit_normal"):
        draw_times(4, g, TrainingTimes("beta"))
    with pytest.raises(ValueError, match="at least 0, got -1"):
        draw_times(-1, g)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        validation_times(-1)
    for std in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="std"):
            draw_times(4, g, TrainingTimes("logit_normal", std=std))
    with pytest.raises(ValueError, match="mean"):
        draw_times(4, g, TrainingTimes("logit_normal", mean=math.nan))
    with pytest.raises(ValueError, match=r"uniform times have no mean or std, got mean=0\.5"):
        draw_times(4, g, TrainingTimes(mean=0.5))
    labels = torch.zeros(3, dtype=torch.int64)
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="lie in"):
            drop_labels(labels, probability, 10, g)
    with pytest.raises(ValueError, match="null label must be at least 0"):
        drop_labels(labels, 0.1, -1, g)
