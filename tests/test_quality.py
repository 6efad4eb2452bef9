"""Quality of a set of samples against closed forms and loops, its protocol, its file, and paired differences."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.metrics import manifolds, paired
from kinetic.metrics.extractors import extractor
from kinetic.metrics.kernels import kernel_distance, unbiased_mmd
from kinetic.metrics.manifolds import overlap, radii
from kinetic.metrics.moments import Moments, frechet_distance, moments
from kinetic.metrics.paired import paired_difference
from kinetic.metrics.protocol import Protocol
from kinetic.metrics.quality import extrapolated, fid_infinity, quality_of
from kinetic.metrics.real import RealFeatures, read_real, write_real


def draw(count: int, size: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def distance(a: Tensor, b: Tensor) -> float:
    return math.dist(a.tolist(), b.tolist())


def radius(x: Tensor, i: int, k: int) -> float:
    return sorted(distance(x[i], other) for j, other in enumerate(x) if j != i)[k - 1]


# ---------------------------------------------------------------- precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("cells", [30, 10**6])
def test_balls_by_loops(k: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifolds, "CELLS", cells)  # 1 row at a time, or all
    real, samples = draw(25), draw(30, seed=1) * 0.7 + 0.4
    in_real = [[distance(x, y) <= radius(real, i, k) for y in samples] for i, x in enumerate(real)]
    in_sample = [[distance(x, y) <= radius(samples, j, k) for j, y in enumerate(samples)] for x in real]
    found = overlap(samples, real, radii(real, k=k), k=k)
    assert found.precision == pytest.approx(sum(any(row[j] for row in in_real) for j in range(30)) / 30)
    assert found.recall == pytest.approx(sum(any(row) for row in in_sample) / 25)
    assert found.density == pytest.approx(sum(sum(row) for row in in_real) / (k * 30))
    assert found.coverage == pytest.approx(sum(any(row) for row in in_real) / 25)
    assert 0 < found.recall < 1
    assert len({found.precision, found.recall, found.density, found.coverage}) == 4


def test_balls_on_a_line() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # k = 1: radii 1, 1, 1, 8
    samples = torch.tensor([[1.5], [1.6], [30.0]])  # radii 0.1, 0.1, 28.4
    assert radii(real, k=1).tolist() == [1, 1, 1, 64]
    found = overlap(samples, real, radii(real, k=1), k=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == 0.5  # 2 and 10 lie within 28.4 of 30
    assert found.density == pytest.approx((2 + 2 + 0) / 3)
    assert found.coverage == 0.5


def test_a_feature_is_no_neighbour_of_itself_but_of_its_duplicate() -> None:
    x = torch.cat([draw(5), draw(5)])
    assert (radii(x, k=1) < 1e-12).all()
    assert (radii(x, k=2) > 1e-3).all()


def test_copies_lie_in_every_ball_far_from_the_origin_too() -> None:
    real = draw(40).repeat_interleave(3, 0) + 1000  # radii of k = 2 are 0
    found = overlap(real.flip(0), real, radii(real, k=2), k=2)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_the_neighbour_that_sets_a_radius_lies_in_the_ball_whatever_the_rounding() -> None:
    real = draw(150, 37)
    for k in (1, 2, 5):
        copies = real[torch.randperm(150, generator=torch.Generator().manual_seed(k))]
        found = overlap(copies[:149], real, radii(real, k=k), k=k)
        held = 150 * (k + 1) - sum(  # each ball holds itself and k more, without the copy that is left out
            distance(x, copies[149]) <= radius(real, i, k) + 1e-9 for i, x in enumerate(real)
        )
        assert found.density == pytest.approx(held / (k * 149), rel=1e-12)


def test_sets_apart_and_dropped_modes() -> None:
    real = torch.cat([draw(60), draw(60, seed=1) + 100])
    good = draw(60, seed=2)
    only = overlap(good, real, radii(real, k=3), k=3)
    assert only.precision > 0.7
    assert 0.3 < only.recall < 0.55
    away = overlap(good - 50, real, radii(real, k=3), k=3)
    assert (away.precision, away.recall, away.density, away.coverage) == (0, 0, 0, 0)


def test_too_few_neighbours() -> None:
    for count, k in [(3, 3), (5, 0)]:
        with pytest.raises(KineticError, match=f"k={k} nearest neighbours need"):
            radii(draw(count), k=k)


# ---------------------------------------------------------------- KID


def test_mmd_by_loops() -> None:
    x, y = draw(5, 3).double(), draw(7, 3, seed=1).double()

    def k(a: Tensor, b: Tensor) -> float:
        return (sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / 3 + 1) ** 3

    xx = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    yy = sum(k(y[i], y[j]) for i in range(7) for j in range(7) if i != j) / 42
    xy = sum(k(a, b) for a in x for b in y) / 35
    assert unbiased_mmd(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_mmd_agrees_with_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = draw(40, 8).double(), draw(40, 8, seed=1).double() * 1.2
    assert unbiased_mmd(x, y) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-9)


def test_kid_is_unbiased_and_states_its_standard_error() -> None:
    found = [kernel_distance(draw(40, 3, s), draw(40, 3, 500 + s) + 0.4, subsets=30, seed=s) for s in range(60)]
    values = torch.tensor([one.value for one in found])
    error = torch.tensor([one.error for one in found]).square().mean().sqrt()
    assert 0.7 < float(error / values.std()) < 1.6
    same = [kernel_distance(draw(40, 3, s), draw(40, 3, 500 + s), subsets=10).value for s in range(60)]
    assert abs(sum(same) / 60) < 3 * float(torch.tensor(same).std()) / math.sqrt(60)


def test_subsets_take_half_of_the_smaller_set_at_most() -> None:
    assert kernel_distance(draw(40), draw(25), subsets=2).subset_size == 12
    assert kernel_distance(draw(40), draw(25), subsets=2, subset_size=5).subset_size == 5
    for a, b, options in [(3, 9, {}), (9, 3, {}), (9, 9, {"subsets": 1}), (9, 9, {"subset_size": 1})]:
        with pytest.raises(KineticError, match="KID needs at least 4 images on both sides"):
            kernel_distance(draw(a), draw(b), **options)


# ---------------------------------------------------------------- FID and its bias


def test_a_line_in_one_over_n_is_read_off_at_infinity() -> None:
    assert extrapolated([100, 50, 20], [3 + 7 / n for n in (100, 50, 20)]) == pytest.approx(3, rel=1e-12)


def test_the_bias_of_few_samples_is_taken_out() -> None:
    real = Moments(2, torch.zeros(8).double(), torch.eye(8).double())  # N(0, I) itself
    plain = [frechet_distance(moments(draw(150, 8, s)), real) for s in range(12)]
    without = [fid_infinity(draw(150, 8, s), real) for s in range(12)]
    # to first order the mean adds F / n, and the covariance F (F + 1) / 4 n
    assert sum(plain) / 12 == pytest.approx(8 / 150 + 72 / 600, rel=0.25)
    assert abs(sum(without) / 12) < 0.15 * sum(plain) / 12


def test_halves_of_real_images_show_the_bias() -> None:
    x = draw(200, 8)
    found = RealFeatures.of(x).halves
    order = [RealFeatures.of(x, seed=s).halves for s in range(8)]
    assert found == order[0]
    assert len(set(order)) == 8
    # two halves of 100: twice the bias of one
    assert sum(order) / 8 == pytest.approx(2 * (8 / 100 + 72 / 400), rel=0.35)


# ---------------------------------------------------------------- all of them


def test_quality_is_its_parts_and_is_the_same_from_prepared_features() -> None:
    real, samples = draw(80), draw(60, seed=1) + 0.2
    found = quality_of(samples, real, k=2, subsets=5)
    near = overlap(samples, real, radii(real, k=2), k=2)
    assert found.fid == frechet_distance(moments(samples), moments(real))
    assert found.fid_infinity == fid_infinity(samples, moments(real))
    assert (found.kid, found.kid_error) == (lambda k: (k.value, k.error))(kernel_distance(samples, real, subsets=5))
    assert (found.precision, found.recall) == (near.precision, near.recall)
    assert (found.density, found.coverage) == (near.density, near.coverage)
    prepared = RealFeatures.of(real, k=2)
    assert quality_of(samples, prepared, subsets=5) == found
    assert next(iter(found.numbers())) == "fid_60"
    assert quality_of(samples.double(), prepared, subsets=5) == found


def test_the_order_of_samples_changes_no_distance() -> None:
    real, samples = draw(80), draw(60, seed=1) + 0.2
    one, two = quality_of(samples, real, subsets=2), quality_of(samples.flip(0), real, subsets=2)
    assert one.fid == pytest.approx(two.fid, rel=1e-9)
    assert (one.precision, one.recall, one.density, one.coverage) == (
        two.precision,
        two.recall,
        two.density,
        two.coverage,
    )


def test_the_protocol_says_how_figures_came_about() -> None:
    pixels = extractor("pixels")
    real = RealFeatures.of(draw(20), split="held out", extractor=pixels)
    found = quality_of(draw(15), real, subsets=2, solver="heun", steps=8, nfe=16, weights="ema", seeds="0-14").protocol
    expected = {"samples": 15, "real": 20, "split": "held out", "extractor": "pixels", "extractor_hash": pixels.hash}
    drawn = {"solver": "heun", "steps": 8, "nfe": 16, "weights": "ema", "seeds": "0-14"}
    assert found.to_dict() == {**expected, "resize": "none", "k": 3, **drawn}


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("samples", 11, "samples is 10 here and 11 there"),
        ("extractor_hash", "ab", "extractor_hash is not stated here and ab there"),
        ("steps", 5, "steps is 4 here and 5 there"),
    ],
)
def test_figures_of_different_protocols_are_not_compared(field: str, value: Any, shown: str) -> None:
    one = Protocol(samples=10, real=20, steps=4)
    other = replace(one, **{field: value})
    one.check_comparable(replace(one))
    one.check_comparable(other, varying=(field,))
    with pytest.raises(KineticError, match=f"different protocols are not compared: {shown}"):
        one.check_comparable(other)
    with pytest.raises(KineticError, match=shown):
        one.check_comparable(other, varying=("seeds",))
    with pytest.raises(KineticError, match="a protocol has no 'step'; choose from samples, real"):
        one.check_comparable(other, varying=("step",))


def test_figures_are_subtracted_within_a_protocol() -> None:
    real = RealFeatures.of(draw(40))
    a, b = (quality_of(draw(30, seed=s), real, subsets=2, solver=n) for s, n in [(1, "euler"), (2, "heun")])
    assert a.minus(b, varying=("solver",))["fid_30"] == a.fid - b.fid
    assert a.minus(b, varying=("solver",))["recall"] == a.recall - b.recall
    with pytest.raises(KineticError, match="solver is euler here and heun there"):
        a.minus(b)
    c = quality_of(draw(20, seed=1), real, subsets=2, solver="euler")
    assert a.minus(c, varying=("samples",))["fid_30"] == a.fid - c.fid


@pytest.mark.parametrize(
    ("samples", "real", "options", "message"),
    [
        (draw(9), draw(20), {}, "at least 10 samples, got 9"),
        (draw(20), draw(9), {}, "at least 10 real images, got 9"),
        (draw(20, 3), draw(20, 4), {}, "samples have 3 features and real images 4; use one extractor"),
        (torch.zeros(20), draw(20), {}, r"samples should be \[N, F\], got \[20\]"),
        (draw(20).log(), draw(20), {}, r"\d+ of 20 samples are not finite; leave them out"),
        (draw(20), draw(20), {"k": 20}, "k=20 nearest neighbours need .* at least 21 images: 20"),
        (draw(20), RealFeatures.of(draw(20), k=5), {"k": 3}, "k=3, but the real features were prepared with k=5"),
    ],
)
def test_what_has_no_quality(samples: Tensor, real: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KineticError, match=message) as error:
        quality_of(samples, real, **options)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- the file of real features


def test_prepared_features_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    real = RealFeatures.of(draw(40), k=4, split="held out", extractor=extractor("pixels"))
    write_real(tmp_path / "real.npz", real)
    again = read_real(tmp_path / "real.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["real.npz"]
    assert torch.equal(again.features, real.features)
    assert torch.equal(again.radii, real.radii)
    assert quality_of(draw(30, seed=1), again, subsets=2) == quality_of(draw(30, seed=1), real, subsets=2)


def _objects(path: Path) -> None:
    np.savez(path, stated=np.array([{}], dtype=object))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _changed(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        np.savez(path, **{**np.load(path), **changes})

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _objects,
        _changed(radii=np.zeros(3)),
        _changed(mean=np.full(4, np.nan)),
        _changed(features=np.zeros((40, 4))),
        _changed(stated=np.array("{}")),
        _changed(stated=np.array('{"k": 99, "halves": 1.0}')),
        _changed(stated=np.array('{"k": 3, "halves": 1.0, "split": 3, "extractor": null}')),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "real.npz"
    write_real(path, RealFeatures.of(draw(40)))
    damage(path)
    with pytest.raises(KineticError, match="holds no features of real images") as error:
        read_real(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_real(tmp_path / "none.npz")


# ---------------------------------------------------------------- paired differences

METRICS = (paired.fid, paired.precision, paired.recall, paired.density, paired.coverage)


@pytest.mark.parametrize("metric", METRICS)
def test_without_resampling_a_metric_is_that_of_quality(metric: paired.Metric) -> None:
    real, samples = RealFeatures.of(draw(50)), draw(40, seed=1) * 0.8 + 0.3
    found = metric(samples, real, torch.ones(1, 40, dtype=torch.int64))
    whole = quality_of(samples, real, subsets=2)
    assert float(found) == pytest.approx(getattr(whole, metric.__name__), rel=1e-9)


@pytest.mark.parametrize("metric", [paired.fid, paired.precision, paired.density, paired.coverage])
def test_weights_are_repetitions(metric: paired.Metric) -> None:
    real, samples = RealFeatures.of(draw(50)), draw(40, seed=1) * 0.8 + 0.3
    weights = paired.resampled(40, repeats=3, seed=4)
    assert weights.sum(1).tolist() == [40] * 3
    repeated = [metric(samples.repeat_interleave(w, 0), real, torch.ones(1, 40, dtype=torch.int64)) for w in weights]
    torch.testing.assert_close(metric(samples, real, weights), torch.cat(repeated), check_dtype=False)


def test_recall_counts_the_balls_that_were_drawn() -> None:
    real = RealFeatures.of(torch.arange(12.0)[:, None])
    samples = torch.arange(12.0)[:, None] + 0.25  # balls of radius 2 or 3 round each
    weights = torch.zeros(2, 12, dtype=torch.int64)
    weights[0, 6], weights[1, [0, 11]] = 12, 6
    # round 6.25: 5, 6, 7, 8; round 0.25 and 11.25 with radius 3: 0, 1, 2, 3 and 9, 10, 11
    assert (paired.recall(samples, real, weights) * 12).tolist() == pytest.approx([4, 7])


@pytest.mark.parametrize("metric", METRICS)
def test_a_setting_does_not_differ_from_itself(metric: paired.Metric) -> None:
    x = draw(30, seed=1)
    found = paired_difference(metric, x, x, RealFeatures.of(draw(40)), repeats=10)
    assert (found.difference, found.error, found.low, found.high) == (0, 0, 0, 0)
    assert found.a == found.b


def test_the_error_of_a_paired_share_is_that_of_its_rows() -> None:
    real = RealFeatures.of(draw(60))
    a, b = draw(200, seed=1) * 1.5, draw(200, seed=1) * 1.5 + 0.3
    flags = [paired._held(x, real) > 0 for x in (a, b)]
    rows = flags[0].double() - flags[1].double()
    found = paired_difference(paired.precision, a, b, real, repeats=1500, seed=2)
    assert found.difference == pytest.approx(float(rows.mean()))
    assert found.error == pytest.approx(float(rows.std(correction=0)) / math.sqrt(200), rel=0.08)
    assert found.low == pytest.approx(found.difference - 1.96 * found.error, abs=0.2 * found.error)
    assert found.high == pytest.approx(found.difference + 1.96 * found.error, abs=0.2 * found.error)
    narrow = paired_difference(paired.precision, a, b, real, repeats=1500, seed=2, level=0.5)
    assert narrow.high - narrow.low < 0.5 * (found.high - found.low)


def test_what_two_settings_have_in_common_cancels() -> None:
    real, x = RealFeatures.of(draw(200)), draw(100, seed=1)
    near, far = (paired_difference(paired.fid, x, y, real, repeats=40) for y in (x + 0.02, draw(100, seed=2)))
    assert near.error < 0.3 * far.error
    assert paired_difference(paired.fid, x, x + 0.02, real, repeats=40) == near
    assert paired_difference(paired.fid, x, x + 0.02, real, repeats=40, seed=1).error != near.error


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (draw(20), draw(21), {}, r"paired by their seeds, got features \[20, 4\] and \[21, 4\]"),
        (draw(20), draw(20).log(), {}, "are not finite"),
        (draw(20, 3), draw(20, 3), {}, "use one extractor"),
        (draw(20), draw(20), {"repeats": 5}, "at least 10 repeats"),
        (draw(20), draw(20), {"level": 95}, r"a level in \(0, 1\), got 200 and 95"),
    ],
)
def test_what_is_not_paired(a: Tensor, b: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KineticError, match=message):
        paired_difference(paired.fid, a, b, RealFeatures.of(draw(30)), **options)
