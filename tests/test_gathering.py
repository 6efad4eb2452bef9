"""What every process has reaches all of them bit for bit, by tensors alone."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from kinetic import ranks
from kinetic.callbacks.collecting import Collector
from kinetic.flow.trajectory import Trajectory
from kinetic.ranks import Parcel, collect, gather, gather_notes, packed, unpacked
from kinetic.samples.table import SampleTable
from tests.scripted import SHAPE, trajectory

ROOT = Path(__file__).parent.parent
KINDS = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def parcel(rank: int) -> Parcel:
    """Tensors of all kinds whose first axis is longer on the second rank, one that the first lacks, and text."""
    rng = torch.Generator().manual_seed(rank)
    tensors = {
        f"of {kind}": (torch.randn(3 * rank, 2, generator=rng) * 7).abs().to(kind) for kind in KINDS
    }  # 0 rows on the first rank
    tensors["turned"] = torch.arange(6.0).view(2, 3).T
    tensors["alone"] = torch.tensor(1.5)
    tensors["odd"] = torch.tensor([True] * (3 + rank))
    if rank:
        tensors["numbers"] = torch.tensor([math.nan, -math.inf, -0.0, 5e-324], dtype=torch.float64)
    return Parcel({"text": "é \ud800 \u2028" * rank, "numbers": [1 / 3, math.inf, None], "rank": rank}, tensors)


def assert_same(a: Parcel, b: Parcel) -> None:
    assert a.note == b.note
    assert list(a.tensors) == list(b.tensors)
    for name, one in a.tensors.items():
        two = b.tensors[name]
        assert (one.dtype, one.shape) == (two.dtype, two.shape), name
        assert one.contiguous().reshape(-1).view(torch.uint8).tolist() == two.reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_parcel_is_what_was_packed(rank):
    """Kills: a type, a shape or a bit that is lost; tensors that do not lie in order."""
    assert_same(unpacked(packed(parcel(rank))), parcel(rank))
    assert_same(unpacked(packed(Parcel())), Parcel())


def test_collectives_are_told_the_device(monkeypatch):
    """Kills: tensors on the CPU for a backend that takes those of a GPU alone."""
    seen = []
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(ranks.dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(ranks.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(ranks.dist, "all_gather", lambda found, own: seen.extend([*found, own]))
    with FakeTensorMode():
        found = collect(torch.zeros(3))
    assert [str(tensor.device) for tensor in seen] == ["cuda:0"] * 3
    assert [str(tensor.device) for tensor in found] == ["cpu"] * 2


def samples(seeds: list[int], steps: int) -> tuple[Trajectory, dict[str, torch.Tensor]]:
    """What a validation step returns of some seeds, on a grid of its own."""
    at = torch.tensor(seeds)
    x = at.float().view(-1, 1, 1, 1).expand(-1, *SHAPE)
    power = at.float().repeat(steps, 1)
    drawn = trajectory(x, at.double().sqrt(), power=power, times=torch.arange(steps) / steps)
    return drawn, {"seeds": at, "labels": at % 3}


PARTS = (([[4, 1], [3]], 3), ([[0], [6, 2, 5, 1]], 3))  # seed 1 is drawn by both, the second has more
UNLIKE = (PARTS[0], (PARTS[1][0], 4))


def collector(parts: list[tuple[list[list[int]], int]]) -> Collector:
    made = Collector()
    made.want(torch.float16)
    for groups, steps in parts:
        for seeds in groups:
            made.add(*samples(seeds, steps))
    return made


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("a pickle is on its way")


def process(rank: int, store: str) -> None:
    """One of two processes: gather, and compare with what one process would have."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    dist.all_gather_object = dist.gather_object = refuse  # type: ignore[assignment]
    for number, found in enumerate(gather(parcel(rank))):
        assert_same(found, parcel(number))
    assert gather_notes((rank, None, [0.5] * rank)) == [[0, None, []], [1, None, [0.5]]]
    for cases in (PARTS, UNLIKE, (([], 3), PARTS[1]), (PARTS[0], ([], 3))):
        mine, whole = collector([cases[rank]]), collector(list(cases))
        table, expected = mine.table(), SampleTable.join(whole.parts)
        assert repr(table) == repr(expected)
        picked = mine.select(expected.seeds[::-1])
        assert torch.equal(picked, torch.stack([whole.pictures[int(seed)] for seed in expected.seeds[::-1]]))
    nothing = Collector()
    nothing.errors = [f"error of {rank}"] * rank
    assert nothing.table() is None
    assert nothing.errors == ["error of 1"]
    dist.destroy_process_group()


def test_two_processes_with_unequal_counts_have_exactly_what_one_would_have(tmp_path):
    """Kills: pickles, padding that is read as rows, ranks out of order, a process without rows."""
    code = "import sys; from tests.test_gathering import process; process(int(sys.argv[1]), sys.argv[2])"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=ROOT, env=env, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        for started in running:
            _, told = started.communicate(timeout=90)
            assert started.returncode == 0, told.decode()[-3000:]
    finally:
        for started in running:
            started.kill()
