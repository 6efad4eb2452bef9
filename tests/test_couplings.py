"""Minibatch optimal transport against brute force, and the bookkeeping that goes with reordering a batch."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinetic.training.couplings import COUPLINGS, assignment, pair, permute


def draw(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    return both[0], both[1]


def cost(x0: torch.Tensor, x1: torch.Tensor) -> float:
    return (x0.double() - x1.double()).square().sum().item()


def least_cost(x0: torch.Tensor, x1: torch.Tensor) -> float:
    return min(cost(x0, x1[list(p)]) for p in itertools.permutations(range(len(x0))))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(6, 2), (6, 3, 4, 4)])
def test_no_permutation_is_cheaper(seed, shape):
    x0, x1 = draw(seed, *shape)
    assert cost(x0, x1[assignment(x0, x1)]) == pytest.approx(least_cost(x0, x1), rel=1e-12)


def test_a_shared_offset_costs_no_digits():
    x0, x1 = draw(0, 6, 2)
    far = (x0.double() + 1e7, x1.double() - 3e7)
    assert torch.equal(assignment(*far), assignment(x0, x1))


def test_norms_that_differ_between_rows_do_not_mislead():
    x0, x1 = draw(1, 6, 2)
    scale = torch.tensor([[0.1], [10.0], [1.0], [5.0], [0.5], [2.0]])
    assert cost(x0 * scale, (x1 * scale)[assignment(x0 * scale, x1 * scale)]) == pytest.approx(
        least_cost(x0 * scale, x1 * scale), rel=1e-12
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 33), width=st.integers(1, 12))
def test_every_image_is_used_once_at_no_more_than_the_independent_cost(seed, rows, width):
    x0, x1 = draw(seed, rows, width)
    order = assignment(x0, x1)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(rows))
    assert cost(x0, x1[order]) <= cost(x0, x1) * (1 + 1e-6)


def test_a_shuffled_copy_is_found_and_direction_is_right():
    x0, _ = draw(2, 40, 8)
    shuffle = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert torch.equal(x0[shuffle][assignment(x0, x0[shuffle])], x0)


def test_autocast_does_not_touch_the_costs():
    x0, x1 = draw(4, 64, 48)
    with torch.autocast("cpu", torch.bfloat16):
        inside = assignment(x0, x1)
    assert torch.equal(inside, assignment(x0, x1))


def test_narrow_images_and_gradients_are_accepted():
    x0, x1 = draw(5, 8, 3)
    assert sorted(assignment(x0.requires_grad_(), x1.half()).tolist()) == list(range(8))


def test_an_empty_batch_stays_empty():
    assert assignment(torch.empty(0, 3, 2, 2), torch.empty(0, 3, 2, 2)).shape == (0,)


def test_labels_ids_and_what_else_comes_along_follow_their_image():
    x0, x1 = draw(6, 12, 2)
    batch = {
        "x": x1,
        "labels": torch.arange(12),
        "ids": [f"image-{i}" for i in range(12)],
        "sizes": tuple(range(12)),
        "none": None,
    }
    paired = pair(x0, batch)
    order = paired["labels"]
    assert order.tolist() != list(range(12))
    assert torch.equal(paired["x"], x1[order])
    assert paired["ids"] == [f"image-{i}" for i in order]
    assert paired["sizes"] == tuple(order.tolist())
    assert paired["none"] is None
    assert torch.equal(batch["labels"], torch.arange(12))  # the input is left alone
    assert torch.equal(batch["x"], x1)


def test_independent_leaves_the_batch_as_it_came():
    x0, x1 = draw(7, 5, 2)
    batch = {"x": x1, "labels": None, "ids": list("abcde")}
    assert pair(x0, batch, coupling="independent") == batch
    assert COUPLINGS == ("independent", "ot")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_row(value):
    x0, x1 = draw(8, 6, 2)
    x1[4, 1] = value
    with pytest.raises(ValueError, match=r"rows \[\] of x0, rows \[4\] of x1.*independent"):
        assignment(x0, x1)


def test_bad_batches_are_refused():
    x0, x1 = draw(9, 4, 2)
    with pytest.raises(ValueError, match="unknown coupling 'sinkhorn': choose from independent, ot"):
        pair(x0, {"x": x1}, coupling="sinkhorn")
    with pytest.raises(ValueError, match=r"one shape.*\(4, 2\) and \(3, 2\)"):
        assignment(x0, x1[:3])
    with pytest.raises(ValueError, match=r"batch\['ids'\] has 3 rows for a batch of 4"):
        permute({"x": x1, "ids": ["a", "b", "c"]}, torch.arange(4))
    for odd in (7, torch.tensor(7), "abcd"):
        with pytest.raises(ValueError, match=r"cannot reorder batch\['odd'\]"):
            permute({"x": x1, "odd": odd}, torch.arange(4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_changes_neither_the_pairing_nor_its_place():
    x0, x1 = draw(10, 64, 3, 8, 8)
    batch = {"x": x1.cuda(), "labels": torch.arange(64).cuda(), "ids": [str(i) for i in range(64)]}
    with torch.autocast("cuda", torch.bfloat16):
        paired = pair(x0.cuda(), batch)
    assert paired["x"].is_cuda
    assert torch.equal(paired["labels"].cpu(), assignment(x0, x1))
    assert paired["ids"] == [str(i) for i in paired["labels"].tolist()]
