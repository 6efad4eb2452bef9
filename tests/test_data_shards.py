"""Shards: what is read, by whom and in what order; damage; writing and the manifest."""

import gzip
import io
import json
import os
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinetic.data import Digits, FlowDataModule, Folder, Shards, Toy
from kinetic.data.manifest import load_manifest
from kinetic.data.pixels import to_uint8
from kinetic.data.shards import share
from kinetic.data.sources import find_shards, shard_name
from kinetic.data.tars import read_samples
from kinetic.data.writing import source, write_shards


def png(value: int, mode: str = "RGB", size: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, dtype=np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def tar(path: Path, files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode, format=format) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def plain(path: Path, start: int, count: int, **extra: bytes) -> Path:
    files = {}
    for i in range(start, start + count):
        files |= {f"{i:04d}.png": png(i), f"{i:04d}.cls": str(i % 3).encode()}
    return tar(path, files | extra)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven shards of 8 images, image i of gray i and class i mod 3."""
    for s in range(7):
        plain(tmp_path / f"train-{s:02d}.tar{'.gz' if s % 2 else ''}", s * 8, 8)
    return tmp_path


def number(name: str) -> int:
    return int(name.split("/")[1])


def ids_of(data: FlowDataModule, epochs: int = 1, start: int = 0, **options: Any) -> list[list[str]]:
    loader = data.train_loader(**options)
    loader.load_state_dict({"batches": start})
    return [batch["ids"] for _ in range(epochs) for batch in loader]


def refusal(**options: Any) -> str:
    options = {"num_val": 0, "batch_size": 4} | options
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        for _ in Shards(**options).train_loader():
            pass
    return str(error.value)


# What is read


@pytest.mark.parametrize("cache", [True, False])
def test_pixels_labels_and_ids_belong_together(folder: Path, cache: bool) -> None:
    data = Shards(train=str(folder), num_val=0, batch_size=16, cache=cache)
    seen = 0
    for batch in data.train_loader():
        for x, label, name in zip(batch["x"], batch["labels"], batch["ids"], strict=True):
            assert name == f"train-{number(name) // 8:02d}/{number(name):04d}"
            assert int(label) == number(name) % 3
            assert torch.equal(to_uint8(x[None]), torch.full((1, 4, 4, 3), number(name), dtype=torch.uint8))
            seen += 1
    assert seen == 64
    assert (data.shape, data.num_classes) == ((3, 4, 4), 3)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("world", [1, 2, 9])
def test_exact_passes_see_every_image_once_over_all_ranks(folder: Path, cache: bool, world: int) -> None:
    data = Shards(train=str(folder), num_train=40, batch_size=18, cache=cache)
    names: list[str] = []
    for rank in range(world):
        for x, indices, ids in data.reference(chunk=5, rank=rank, world=world):
            assert to_uint8(x)[:, 0, 0, 0].tolist() == [number(i) for i in ids]
            assert [data.subset_ids[i] for i in indices.tolist()] == ids
            names += ids
    assert sorted(names) == data.subset_ids
    held = [i for r in range(world) for b in data.val_loader(rank=r, world=world) for i in b["ids"]]
    assert len(held) == len(set(held)) == 16
    assert not set(held) & set(names)


def test_patterns(folder: Path) -> None:
    assert [s.name for s in find_shards(str(folder))] == [f"train-{s:02d}" for s in range(7)]
    assert len(find_shards(str(folder / "train-*.tar"))) == 4
    assert len(find_shards(str(folder / "train-0?.tar.gz"))) == 3
    assert [s.name for s in find_shards(str(folder / "train-{00..02..2}.tar"))] == ["train-00", "train-02"]
    assert len(find_shards([str(folder / "train-00.tar"), str(folder / "train-01.tar.gz")])) == 2
    assert len(find_shards(f"{folder}/train-00.tar::{folder}/train-02.tar")) == 2


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("a/train-00.tar", "train-00"),
        ("https://host/x/in.net-3.tar.gz?sig=a.b", "in.net-3"),
        ("pipe:curl -s 'https://host/b-7.tgz' | cat", "b-7"),
        ("pipe:cat folder/c.tar", "c"),
    ],
)
def test_names_of_shards(url: str, name: str) -> None:
    assert shard_name(url) == name


def test_pipes_and_file_urls_are_read_like_files(folder: Path) -> None:
    direct = list(read_samples(find_shards(str(folder / "train-01.tar.gz"))[0]))
    for url in (f"pipe:cat {folder}/train-01.tar.gz", f"file://{folder}/train-01.tar.gz"):
        assert list(read_samples(find_shards(url)[0])) == direct
    data = Shards(train=f"pipe:cat {folder}/train-{{00,02}}.tar", num_val=0)
    data.setup()
    assert len(data.subset_ids) == 16


def keys_of(path: Path, files: dict[str, bytes]) -> list[tuple[str, dict[str, bytes]]]:
    return list(read_samples(find_shards(str(tar(path, files)))[0]))


def test_samples_are_grouped_by_the_name_up_to_the_first_dot(tmp_path: Path) -> None:
    files = {
        "./a/1.JPG": b"i",
        "./a/1.cls": b"2",
        "a/2.seg.png": b"x",
        "a/2.png": b"w",
        "b/2.png": b"y",
        "b/2.txt": b"z",
    }
    assert keys_of(tmp_path / "a.tar", files) == [
        ("a/1", {"jpg": b"i", "cls": b"2"}),
        ("a/2", {"png": b"w"}),
        ("b/2", {"png": b"y"}),
    ]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_in_every_format_of_tar(tmp_path: Path, format: int) -> None:
    long = "d" * 60 + "/" + "ü" * 40 + "n" * 15
    if format != tarfile.USTAR_FORMAT:
        long = "e" * 90 + "/" + long * 2
    path = tar(tmp_path / "a.tar", {f"{long}.png": b"1" * 700, f"{long}.cls": b"0", "next.png": b""}, format)
    with tarfile.open(path, "a") as archive:
        archive.add(tmp_path, "some_folder", recursive=False)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "next.png"
        archive.addfile(link)
    assert list(read_samples(find_shards(str(path))[0])) == [
        (long, {"png": b"1" * 700, "cls": b"0"}),
        ("next", {"png": b""}),
    ]


def test_labels_from_json_and_none_at_all(tmp_path: Path) -> None:
    files = {f"{i}.{k}": v for i in range(4) for k, v in [("png", png(i)), ("json", b'{"kind": %d}' % i)]}
    path = str(tar(tmp_path / "a.tar", files))
    data = Shards(train=path, label_key="kind", num_val=0, num_classes=9)
    batch = next(iter(data.train_loader()))
    assert batch["labels"].tolist() == [number(i) for i in batch["ids"]]
    assert data.num_classes == 9
    data = Shards(train=path, num_val=0)
    assert next(iter(data.train_loader()))["labels"] is None
    assert data.num_classes is None


def test_latents_are_floats_times_a_scale(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).normal(size=(4, 2, 3)).astype(np.float16) for i in range(4)]
    path = str(tar(tmp_path / "a.tar", {f"{i}.npy": npy(a) for i, a in enumerate(arrays)}))
    data = Shards(train=path, scale=0.5, num_val=0)
    (x, _, _) = next(iter(data.reference()))
    assert data.shape == (4, 2, 3)
    assert torch.equal(x, torch.from_numpy(np.stack(arrays)).float() * 0.5)
    assert "no pictures to mirror" in refusal(train=path, flip=True)
    assert "latents" in refusal(train=path, size=8)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_in_a_tar_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "exploded"
    monkeypatch.setenv("BOMB", str(mark))
    bomb = pickle.dumps(Bomb())
    kinds = ("pyd", "pickle", "pkl", "pth", "pt", "npz")
    tar(tmp_path / "a.tar", {"0.png": png(0)} | {f"0.{k}": bomb for k in kinds})
    assert len(list(Shards(train=str(tmp_path / "a.tar"), num_val=0).reference())) == 1
    tar(tmp_path / "b.tar", {"0.npy": npy(np.array([Bomb()], dtype=object))})
    assert "cannot read the latents of b/0" in refusal(train=str(tmp_path / "b.tar"))
    tar(tmp_path / "c.tar", {"0.npy": bomb})
    assert "cannot read the latents of c/0" in refusal(train=str(tmp_path / "c.tar"))
    assert not mark.exists()


# Streams


def test_shards_are_dealt_out_disjointly_by_an_order_of_the_epoch() -> None:
    wanted = torch.full((7,), 8)
    for streams in (1, 2, 3, 7):
        deals = [[share(wanted, seed=5, epoch=e, stream=s, streams=streams) for s in range(streams)] for e in (0, 1)]
        for deal in deals:
            assert sorted(s for part in deal for s in part.shards) == list(range(7))
        assert deals[0] != deals[1]
    assert share(wanted, seed=5, epoch=0, stream=0, streams=1) == share(wanted, seed=5, epoch=0, stream=0, streams=1)
    assert share(wanted, seed=6, epoch=0, stream=0, streams=1) != share(wanted, seed=5, epoch=0, stream=0, streams=1)


def test_fewer_shards_than_streams_are_split_by_sample() -> None:
    wanted = torch.tensor([8, 0, 8])
    seen: Counter[tuple[int, int]] = Counter()
    for stream in range(5):
        mine = share(wanted, seed=0, epoch=0, stream=stream, streams=5)
        (shard,) = mine.shards
        seen.update((shard, n) for n in range(mine.part, 8, mine.parts))
    assert seen == Counter({(s, n): 1 for s in (0, 2) for n in range(8)})
    assert share(torch.tensor([1, 2]), seed=0, epoch=0, stream=7, streams=8).parts == 1


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_epoch_has_the_same_steps_with_any_number_of_workers(folder: Path, workers: int) -> None:
    data = Shards(train=str(folder), num_val=0, batch_size=8, cache=False, num_workers=workers)
    epoch = ids_of(data)
    assert [len(ids) for ids in epoch] == [8] * 7 == [8] * len(data.train_loader())
    if workers < 2:
        assert len({i for ids in epoch for i in ids}) == 56


def test_ranks_stream_different_images_for_the_same_number_of_steps(folder: Path) -> None:
    data = Shards(train=str(folder), num_val=0, batch_size=8, steps_per_epoch=5, cache=False)
    for epoch in range(2):
        ranks = [ids_of(data, start=epoch * 5, rank=r, world=2) for r in range(2)]
        assert [len(r) for r in ranks] == [5, 5]
        first, second = ({i for ids in rank for i in ids} for rank in ranks)
        assert not first & second


def test_ranks_share_a_single_shard_by_sample(folder: Path) -> None:
    data = Shards(train=str(folder / "train-00.tar"), num_val=0, batch_size=8, cache=False)
    ranks = [{i for ids in ids_of(data, rank=r, world=4) for i in ids} for r in range(4)]
    assert [len(r) for r in ranks] == [2] * 4
    assert set.union(*ranks) == set(data.subset_ids)


def test_a_rank_with_few_images_goes_round_and_never_runs_dry(folder: Path) -> None:
    data = Shards(train=str(folder), num_train=3, num_val=0, batch_size=8, steps_per_epoch=6, cache=False)
    for rank in range(4):
        ids = [i for batch in ids_of(data, rank=rank, world=4) for i in batch]
        assert len(ids) == 12
        assert set(ids) <= set(data.subset_ids)


def test_epochs_differ_and_seeds_repeat(folder: Path) -> None:
    make = lambda seed: ids_of(Shards(train=str(folder), num_val=0, batch_size=8, cache=False, seed=seed), epochs=2)  # noqa: E731
    run = make(0)
    assert run[:7] != run[7:]
    assert run == make(0) != make(1)


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("cache", [True, False])
def test_streams_resume_at_any_batch(folder: Path, workers: int, cache: bool) -> None:
    options: dict[str, Any] = {"batch_size": 6, "num_workers": workers, "shuffle": 5, "cache": cache, "flip": True}
    data = Shards(train=str(folder), num_val=0, **options)
    loader = data.train_loader()
    straight = [b for _ in range(2) for b in loader]
    for stop in (1, 3, 9, 10, 15):
        resumed = data.train_loader()
        resumed.load_state_dict({"batches": stop})
        rest = [b for _ in range(2 - stop // 10) for b in resumed]
        assert [b["ids"] for b in rest] == [b["ids"] for b in straight[stop:]]
        assert all(torch.equal(a["x"], b["x"]) for a, b in zip(rest, straight[stop:], strict=True))


def test_what_is_skipped_on_the_way_is_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Shards(train=str(folder), num_val=0, batch_size=8, cache=False)
    loader = data.train_loader()
    loader.load_state_dict({"batches": 6})
    decoded = []
    original = type(loader.pool.decoder).__call__  # type: ignore[attr-defined]
    spy = lambda self, name, sample: decoded.append(name) or original(self, name, sample)  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(type(loader.pool.decoder), "__call__", spy)  # type: ignore[attr-defined]
    assert len(list(loader)) == 1
    assert len(decoded) == 8


def test_more_workers_than_shards_are_cut_with_one_line(folder: Path) -> None:
    data = Shards(train=str(folder / "train-0[0-2].tar*"), num_val=0, batch_size=6, cache=False, num_workers=3)
    with pytest.warns(UserWarning, match=r"3 shards do not go round 2 devices x 3 workers: using 1 a device"):
        assert len(ids_of(data, rank=1, world=2)) == 4


def test_streaming_leaves_the_random_state_of_the_network_alone(folder: Path) -> None:
    data = Shards(train=str(folder), num_val=4, batch_size=8, cache=False)
    before = torch.get_rng_state()
    ids_of(data)
    list(data.val_loader())
    assert torch.equal(torch.get_rng_state(), before)


# Damage


def test_a_truncated_tar_is_named_with_its_last_whole_sample(tmp_path: Path) -> None:
    whole = plain(tmp_path / "a.tar", 0, 10).read_bytes()
    at = 512 * 2  # each of the members takes a header and one block of data
    cuts = {"in an image": 6 * at + 700, "in a header": 6 * at + 100, "between members": 6 * at, "its end": 20 * at}
    for what, cut in cuts.items():
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:cut])
        message = refusal(train=str(path))
        last = {"its end": "0008"}.get(what, "0001")
        assert f"shard {path} is truncated or unreadable after sample {last}" in message, what
        with pytest.warns(UserWarning, match=r"skipped 1 faults beside \d+ good samples, the first: shard .*cut\.tar"):
            data = skipping(path)
        assert data.subset_ids == [f"cut/{i:04d}" for i in range(int(last) + 1)]
        assert len(list(data.train_loader())) >= 1


def skipping(path: Path, **options: Any) -> Shards:
    data = Shards(train=str(path), num_val=0, batch_size=2, skip_bad=True, cache=False, **options)
    data.setup()
    return data


def test_truncated_gzip_garbage_and_nothing(tmp_path: Path) -> None:
    whole = plain(tmp_path / "a.tar.gz", 0, 40).read_bytes()
    for name, content in [
        ("b.tar.gz", whole[: len(whole) // 2]),
        ("c.tar", os.urandom(2000)),
        ("d.tar", b""),
        ("e.tar.gz", gzip.compress(b"")),
        ("f.tar.gz", whole[:300] + b"garbage" * 30 + whole[510:]),
    ]:
        (tmp_path / name).write_bytes(content)
        assert f"shard {tmp_path / name} is truncated or unreadable" in refusal(train=str(tmp_path / name))


def test_empty_and_missing_shards(tmp_path: Path) -> None:
    assert "is empty" in refusal(train=str(tar(tmp_path / "a.tar", {})))
    assert "does not exist" in refusal(train=str(tmp_path / "b.tar"))
    assert "no shards in" in refusal(train=str(tmp_path / "c-*.tar"))
    assert "exit status 3" in refusal(train="pipe:exit 3")
    (tmp_path / "other").mkdir()
    plain(tmp_path / "other" / "a.tar", 0, 2)
    assert "two shards are called a" in refusal(train=[str(tmp_path / "a.tar"), str(tmp_path / "other" / "a.tar")])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_and_can_be_skipped(tmp_path: Path, workers: int) -> None:
    plain(tmp_path / "a.tar", 0, 5, **{"bad.png": png(1)[:40], "bad.cls": b"0"})
    plain(tmp_path / "b.tar", 5, 5)
    message = refusal(train=str(tmp_path), cache=False, num_workers=workers, steps_per_epoch=6)
    assert "cannot decode image a/bad" in message
    with pytest.warns(
        UserWarning, match=r"skipped 1 faults beside 10 good samples, the first: cannot decode image a/bad"
    ):
        data = skipping(tmp_path)
    assert len(data.subset_ids) == 10


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.txt": b"", "0.cls": b"0"}, "sample a/0 has no image"),
        ({"0.png": png(0), "0.cls": b"cat"}, "label of sample a/0 is 'cat'"),
        ({"0.png": png(0), "0.cls": b"-1"}, "sample a/0 has label -1, outside 0 to 3"),
        ({"0.png": png(0), "0.cls": b"4"}, "sample a/0 has label 4, outside 0 to 3: .* num_classes of 5"),
        ({"0.png": png(0), "0.json": b"{"}, "label of sample a/0"),
        ({"0.png": png(0), "0.cls": b"0", "1.png": png(0)}, "sample a/1 has no label but others have"),
        ({"0.png": png(0), "1.png": png(0), "0.PNG": png(0)}, "sample a/0 occurs twice"),
        ({"0.png": png(0), "0.PNG": png(0)}, "sample a/0 occurs twice"),
        (
            {"0.png": png(0), "1.png": png(0), "0.cls": b"1"},
            r"members of sample 0 do not follow one another in .*a\.tar",
        ),
        ({"0.png": png(0), "1.png": png(0, "L")}, r"image a/1 has shape \[4, 4, 1\] .* pass grayscale=true"),
        ({"0.png": png(0), "1.png": png(0, size=5)}, r"image a/1 has shape \[5, 5, 3\] .* pass size=N"),
        ({"0.npy": npy(np.zeros(3))} | {"1.npy": npy(np.zeros(4))}, "keep one shape"),
        ({"0.npy": npy(np.zeros(3, dtype=int))}, "not floats"),
    ],
)
def test_faults_of_samples_take_one_line(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    import re

    tar(tmp_path / "a.tar", files)
    assert re.search(message, refusal(train=str(tmp_path / "a.tar"), num_classes=4))


# Writing


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    data = Digits()
    manifest = write_shards(data, tmp_path / "out", per_shard=500)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "test-00000.tar",
        *(f"train-{i:05d}.tar" for i in range(3)),
    ]
    assert load_manifest(tmp_path / "out" / "manifest.json") == manifest
    assert [e.count for e in manifest.shards] == [500, 500, 297, 500]
    back = Shards(train=str(tmp_path / "out"))
    (x, _, ids), (y, _, _) = next(back.reference(chunk=2000)), next(data.reference(chunk=2000))
    assert torch.equal(x, y)
    assert ids[500] == "train-00001/00000500"
    assert torch.equal(next(back.held_out())[0], next(data.held_out())[0])
    assert (back.shape, back.num_classes, back.class_names) == (data.shape, data.num_classes, data.class_names)
    first = {n: b for b in data.train_loader() for n in b["labels"].tolist()}
    assert set(first) == set(range(10))
    labels = torch.cat([b["labels"] for b in back.val_loader()])
    assert torch.equal(labels, torch.cat([b["labels"] for b in data.val_loader()]))


def test_equal_images_give_equal_bytes_and_other_formats_read_back(tmp_path: Path) -> None:
    data = Digits(num_train=30)
    first, second = (write_shards(data, tmp_path / name) for name in ("a", "b"))
    assert first == second
    with tarfile.open(tmp_path / "a" / "train-00000.tar") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in archive} == {(0, 0, 0, "")}
    assert (tmp_path / "a" / "train-00000.tar").read_bytes() == (tmp_path / "b" / "train-00000.tar").read_bytes()
    write_shards(data, tmp_path / "webp", format="webp")
    back = Shards(train=str(tmp_path / "webp"))  # WebP has no gray; the manifest knows
    assert torch.equal(next(back.reference())[0], next(data.reference())[0])
    write_shards(Toy(points=20), tmp_path / "toy")
    back = Shards(train=str(tmp_path / "toy"))
    assert torch.equal(next(back.reference())[0], next(Toy(points=20).reference())[0])
    assert back.shape == (2,)


def test_a_manifest_spares_the_scan_and_is_verified_on_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(Digits(num_train=30), tmp_path, per_shard=10)
    opened = []
    import kinetic.data.decoding as samples

    monkeypatch.setattr(samples, "scan", lambda *_, **__: opened.append(1))
    data = Shards(train=str(tmp_path))
    data.setup()
    assert not opened
    assert len(data.subset_ids) == 30
    path = tmp_path / "train-00001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"train-00001\.tar.*(SHA-256|cannot decode)"):
        list(Shards(train=str(tmp_path)).reference())
    content[700] ^= 1
    content[-700] ^= 1  # in the padding, where no image is hurt
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"train-00001\.tar.*SHA-256 is not that of manifest\.json"):
        list(Shards(train=str(tmp_path)).reference())
    path.write_bytes(bytes(content) + bytes(512))
    with pytest.raises(ValueError, match=r"train-00001\.tar has \d+ bytes but manifest\.json says \d+"):
        Shards(train=str(tmp_path)).setup()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "shards": [{}]}'])
def test_a_bad_manifest_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    write_shards(Digits(num_train=5), tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    assert f"{tmp_path / 'manifest.json'} cannot be used" in refusal(train=str(tmp_path))


def test_counts_that_disagree_are_refused(tmp_path: Path) -> None:
    write_shards(Digits(num_train=5), tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["shards"][0]["keys"].pop()
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert "counts of train-00000.tar do not agree" in refusal(train=str(tmp_path))


def test_writing_refuses_to_overwrite_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plain(out / "mine.tar", 0, 1)
    with pytest.raises(ValueError, match=r"already holds shards \(mine\.tar\)"):
        write_shards(Digits(num_train=5), out)
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(i))
    (tmp_path / "images" / "z.png").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"z\.png"):
        write_shards(Folder(path=str(tmp_path / "images"), cache=False), tmp_path / "new", per_shard=2)
    assert list((tmp_path / "new").iterdir()) == []
    for options, message in [({"per_shard": 0}, "per_shard=0"), ({"format": "bmp"}, "format='bmp'")]:
        with pytest.raises(ValueError, match=message):
            write_shards(Digits(), tmp_path / "x", **options)  # type: ignore[arg-type]


def test_folders_keep_all_images_and_their_classes(tmp_path: Path) -> None:
    for i in range(6):
        path = tmp_path / "in" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i * 9))
    write_shards(source(str(tmp_path / "in")), tmp_path / "out")
    back = Shards(train=str(tmp_path / "out"), num_val=0, batch_size=6)
    batch = next(iter(back.train_loader()))
    assert back.class_names == ("cat", "dog")
    grays = to_uint8(batch["x"])[:, 0, 0, 0]
    assert sorted(grays.tolist()) == [0, 9, 18, 27, 36, 45]
    assert torch.equal(grays // 9 % 2, batch["labels"])


def test_sources_are_told_apart(folder: Path, tmp_path: Path) -> None:
    assert isinstance(source("digits"), Digits)
    assert source("mnist", root="x").root == "x"  # type: ignore[attr-defined]
    assert isinstance(source(str(folder)), Shards)
    assert isinstance(source(str(folder / "train-{00..02}.tar")), Shards)
    (tmp_path / "images").mkdir()
    assert isinstance(source(str(tmp_path / "images")), Folder)
    with pytest.raises(ValueError, match="nonsense is no data set"):
        source("nonsense")
