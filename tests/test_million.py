"""References by the million: half precision in a file, shares in several processes, and exact in spite of both."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinetic.data import Digits
from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.memorization.training_set import Keep, TrainingSet
from kinetic.metrics.neighbors import nearest
from kinetic.metrics.reference import ReferenceIndex
from kinetic.store.rows import RowFile
from tests.shares import TIMES, answers, drawn
from tests.test_empirical import assert_agrees, brute, states

ROOT = Path(__file__).parent.parent
HALF = [torch.float16, torch.bfloat16]


def written(folder: Path, images: Tensor, dtype: torch.dtype) -> RowFile:
    """Images in a file, read anew."""
    RowFile.create(folder / "images.npy", images.shape, dtype).write(0, images)
    return RowFile(folder / "images.npy")


def ranked(queries: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """All distances in float64 from differences, ascending, and whose they are."""
    every = [(stored.double() - query.double()).flatten(1).norm(dim=1) for query in queries]
    found = torch.stack(every).sort(dim=1, stable=True)
    return found.values, found.indices


# Files


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_a_file_gives_back_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    images = drawn(0, 13, 2, 3)
    file = RowFile.create(tmp_path / "images.npy", (13, 2, 3), dtype)
    file.write(5, images[5:])
    file.write(0, images[:5])
    whole, part = RowFile(tmp_path / "images.npy"), RowFile(tmp_path / "images.npy", slice(4, 9))
    assert torch.equal(whole.read(slice(0, 13)), images.to(dtype))
    assert torch.equal(part.read(slice(1, 5)), images[5:9].to(dtype))
    assert torch.equal(part.take(torch.tensor([3, 0, 3])), images[[7, 4, 7]].to(dtype))
    assert (len(part), part.nbytes) == (5, 5 * 6 * dtype.itemsize)


def test_numpy_reads_and_writes_such_files(tmp_path: Path) -> None:
    images = drawn(0, 4, 3).half()
    np.save(tmp_path / "images.npy", images.numpy())
    assert torch.equal(RowFile(tmp_path / "images.npy").read(slice(0, 4)), images)
    written(tmp_path, images, torch.bfloat16)
    bits = np.load(tmp_path / "images.npy").view(np.int16)
    assert np.array_equal(bits, images.bfloat16().view(torch.int16).numpy())


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path: np.save(path, np.zeros((2, 3))), "holds <f8 of shape"),
        (lambda path: np.save(path, np.zeros(3, np.float32)), r"shape \(3,\), not float16"),
        (lambda path: np.save(path, np.asfortranarray(np.zeros((2, 3), np.float32))), "in Fortran order"),
        (lambda path: np.save(path, np.zeros((0, 3), np.float32)), "has 0 bytes of 0"),
        (lambda path: path.write_bytes(b"text"), "is no npy file"),
        (lambda path: (np.save(path, np.zeros((2, 3), np.float32)), os.truncate(path, 140)), "has 12 bytes of 24"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path, save, message: str) -> None:
    save(tmp_path / "images.npy")
    with pytest.raises(KineticError, match=message) as error:
        RowFile(tmp_path / "images.npy")
    assert "\n" not in str(error.value)


# One process


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("dtype", HALF)
def test_neighbours_in_half_precision_are_those_of_the_stored_values(
    tmp_path: Path, dtype: torch.dtype, offset: float
) -> None:
    """Kills: images rounded once more, scores taken for distances, a repetition that counts as a second neighbour."""
    images = drawn(0, 3000, 1, 8, 8) + offset
    images[2000:2004] = images[1] + torch.tensor([0.0, 0.0, 0.5, 0.25])[:, None, None, None]  # two repetitions
    file = written(tmp_path, images, dtype)
    stored = images.to(dtype).float()
    queries = torch.cat([stored[:20] + 1e-3 * drawn(1, 20, 1, 8, 8), offset + drawn(2, 20, 1, 8, 8)])
    distances, rows = ranked(queries, torch.cat([stored[:2000], stored[2002:]]))  # without them
    rows = torch.where(rows >= 2000, rows + 2, rows)
    index = ReferenceIndex.build(file)
    assert (index.distinct, index.duplicates) == (2998, 2)
    for chunk in (None, 37, 2999):
        found = nearest(queries, index, k=4, chunk=chunk)
        assert torch.equal(found.indices, rows[:, :4])
        torch.testing.assert_close(found.distances, distances[:, :4], rtol=1e-12, atol=0)
    assert torch.equal(index.images(torch.tensor([2999, 7]))[:, 0], images[[2999, 7], 0].to(dtype))


def test_near_ties_are_told_apart_in_float64() -> None:
    """Kills: differences in float32, whose sums of squares differ by 1e-7 from their values."""
    base = drawn(0, 1, 512)
    away = drawn(1, 40, 512).double()
    lengths = 3 * (1 + 4e-6 * torch.randperm(40, generator=torch.Generator().manual_seed(3)))
    images = (base.double() + away / away.norm(dim=1, keepdim=True) * lengths[:, None]).float()
    distances, rows = ranked(base, images)
    found = nearest(base, torch.cat([images, 50 + drawn(2, 500, 512)]), k=10)
    assert torch.equal(found.indices, rows[:, :10])
    torch.testing.assert_close(found.distances, distances[:, :10], rtol=1e-12, atol=0)


def test_candidates_alone_are_read_a_second_time(tmp_path: Path) -> None:
    file, rows, single = written(tmp_path, drawn(0, 900, 6), torch.float16), [], []

    class Watched(RowFile):
        def read(self, part: slice, out: Tensor | None = None) -> Tensor:
            rows.append(part.stop - part.start)
            return super().read(part, out)

        def take(self, picked: Tensor) -> Tensor:
            single.append(len(picked))
            return super().take(picked)

    index = ReferenceIndex.build([Watched(file.path)])
    rows.clear()
    nearest(drawn(1, 5, 6), index)
    assert sum(rows) == 900  # one pass
    assert 10 <= sum(single) <= 40


def test_a_file_is_kept_in_its_own_precision(tmp_path: Path) -> None:
    images = written(tmp_path, drawn(0, 50, 6), torch.float16)
    index = ReferenceIndex.build(images, cache=True)
    expected = nearest(drawn(1, 5, 6), index)
    assert index.source.resident
    assert {part.dtype for part, _ in index.source.parts()} == {torch.float16}
    images._file.close()
    assert torch.equal(nearest(drawn(1, 5, 6), index).distances, expected.distances)


@pytest.mark.parametrize("t", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("dtype", HALF)
def test_the_field_of_a_file_is_that_of_the_stored_values(tmp_path: Path, dtype: torch.dtype, t: float) -> None:
    images = drawn(0, 300, 40) / 2
    file, stored = written(tmp_path, images, dtype), images.to(dtype).float()
    torch.manual_seed(0)
    x, time = states(stored, t), torch.full((12,), t)
    for chunk in (13, 4096):
        assert_agrees(EmpiricalVelocity(file, chunk=chunk)(x, time), brute(stored, x, time))


# Several processes


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """What two processes say, each of which holds half."""
    folder = tmp_path_factory.mktemp("shares")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    commands = [[sys.executable, "-m", "tests.shares", str(folder), str(rank), "2"] for rank in range(2)]
    both = [subprocess.Popen(c, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        for process in both:
            _, trouble = process.communicate(timeout=120)
            assert process.returncode == 0, trouble[-3000:]
    finally:
        for process in both:
            process.kill()
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in answers(tmp_path_factory.mktemp("alone")).items()}


@pytest.mark.parametrize("flip", [False, True])
def test_shares_have_the_neighbours_of_the_whole(found, alone, flip: bool) -> None:
    """Kills: groups of one share, a repetition in the other one that counts, a process without queries that hangs."""
    for part in found:
        assert np.array_equal(part[f"distances {flip}"], alone[f"distances {flip}"], equal_nan=True)
        assert np.array_equal(part[f"indices {flip}"], alone[f"indices {flip}"])
        assert np.array_equal(part[f"about {flip}"], np.tile(alone[f"about {flip}"], 2))
        assert np.array_equal(part[f"images {flip}"], np.tile(alone[f"images {flip}"], (2, 1, 1, 1)))


@pytest.mark.parametrize("t", TIMES)
def test_shares_have_the_field_of_the_whole(found, alone, t: float) -> None:
    """Kills: sums of shares relative to different maxima, classes that only the other share has, rows mixed up."""
    for name in (f"field {t}", f"classes {t}"):
        for part in found:
            np.testing.assert_allclose(part[name], alone[name], rtol=2e-5, atol=2e-5)


def test_shares_have_the_copies_and_the_null_of_the_whole(found, alone) -> None:
    for part in found:
        assert np.array_equal(part["rows float32"], alone["rows float32"])
        assert np.array_equal(part["rows float16"], alone["rows float16"])
        assert np.array_equal(part["null"], np.tile(alone["null"], 2))
        assert np.array_equal(part["beside"], np.tile(alone["beside"], (2, 1, 1, 1)))


def test_a_failure_of_one_process_is_one_of_all(found) -> None:
    assert "division" in str(found[1]["failing"])
    assert str(found[0]["failing"]).startswith("process 1: integer division")


# Training images that are kept


def test_training_images_are_decoded_once_and_found_again(tmp_path: Path, monkeypatch) -> None:
    """Kills: files that nothing reads, files of other images, a file that is cut off and is taken."""
    data = Digits(num_train=60, num_val=40, flip=True)
    data.setup()
    samples = torch.cat([x for x, _, _ in data.reference(flips=False)])[:9] + 0.01
    plain = TrainingSet.of(data, cache_bytes=0).measure(samples, torch.arange(9))
    passes = []
    whole = type(data).reference

    def counted(self, **options):
        for part in whole(self, chunk=7, **options):
            passes.append(len(part[0]))
            yield part

    monkeypatch.setattr(type(data), "reference", counted)

    def kept(source=data, **options) -> TrainingSet:
        passes.clear()
        return TrainingSet.of(source, keep=Keep("float16", tmp_path), cache_bytes=0, **options)

    first = kept()
    assert sum(passes) in range(60, 75)
    again = kept()
    assert passes == [7]  # a look at the first ones
    for training in (first, again):
        torch.testing.assert_close(training.measure(samples, torch.arange(9)), plain, rtol=0, atol=2e-3)
        assert training.name(59) == data.subset_ids[59]
    assert passes == [7]
    other = Digits(num_train=50, num_val=40, flip=True)
    assert len(kept(other).index.ids) == 50
    assert sum(passes) >= 50
    file = next(path for path in tmp_path.glob("*.npy") if path.stat().st_size == 60 * 64 * 2 + 128)
    os.truncate(file, 1000)
    assert len(kept().index.ids) == 60
    assert sum(passes) >= 60
    assert not list(tmp_path.glob("*.partial"))


def test_values_beyond_half_precision_are_refused(tmp_path: Path, monkeypatch) -> None:
    data = Digits(num_train=60, num_val=40)
    whole = type(data).reference
    monkeypatch.setattr(type(data), "reference", lambda *a, **o: ((1e6 * x, *rest) for x, *rest in whole(*a, **o)))
    with pytest.raises(KineticError, match="has values beyond float16"):
        TrainingSet.of(data, keep=Keep("float16", tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(KineticError, match="precision 'half'; choose from float32, float16, bfloat16"):
        TrainingSet.of(data, keep=Keep("half"))
