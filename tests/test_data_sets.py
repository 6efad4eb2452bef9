"""The data sets: subsets, what is held out, the reference, folders, torchvision's, and the refusals."""

import gzip
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from jsonargparse import ArgumentParser
from PIL import Image

from kinetic.data import Digits, FlowDataModule, Folder, Toy, Vision
from kinetic.data.folders import list_images
from kinetic.data.pools import LazyPool


def everything(chunks: Any) -> tuple[torch.Tensor, list[int], list[str]]:
    parts = list(chunks)
    indices = [i for part in parts for i in part[1].tolist()]
    return torch.cat([part[0] for part in parts]), indices, [i for part in parts for i in part[2]]


def save(path: Path, value: int, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    Image.fromarray(array).convert(mode).save(path)


# Subsets, references, held-out images


def test_digits_are_those_of_scikit_learn_split_in_two() -> None:
    data = Digits(num_val=500)
    data.setup()
    assert (data.shape, data.num_classes) == ((1, 8, 8), 10)
    assert sum(len(x) for x, _, _ in data.held_out()) == 500
    _, _, held = everything(data.held_out())
    assert len(set(data.subset_ids) | set(held)) == 1797
    x, _, ids = everything(data.reference())
    assert float(x.min()) == -1
    assert float(x.max()) == 1
    assert len(x.unique()) == 17
    row = ids.index(data.subset_ids[3])
    from sklearn.datasets import load_digits

    raw = load_digits().images[int(ids[row].split("/")[1])]
    torch.testing.assert_close(x[row, 0], torch.from_numpy(raw / 8 - 1).float(), atol=1.001 / 255, rtol=0)


def test_the_subset_is_seeded_nested_and_separate_from_what_is_held_out() -> None:
    small, large, other = Digits(num_train=50), Digits(num_train=100), Digits(num_train=50, seed=1)
    for data in (small, large, other):
        data.setup()
    assert set(small.subset_ids) < set(large.subset_ids)
    assert set(small.subset_ids) != set(other.subset_ids)
    _, _, held = everything(small.held_out())
    _, _, again = everything(large.held_out())
    assert held == again
    assert not set(held) & set(large.subset_ids)


@pytest.mark.parametrize("flip", [False, True])
def test_the_reference_holds_every_training_image_once_with_its_mirror(flip: bool) -> None:
    data = Digits(num_train=70, flip=flip)
    x, indices, ids = everything(data.reference(chunk=32))
    assert len(x) == data.num_reference == (140 if flip else 70)
    assert ids == [data.subset_ids[i] for i in indices]
    plain = [n for n in range(len(x)) if indices.index(indices[n]) == n]
    assert [indices[n] for n in plain] == list(range(70))
    if flip:
        for n in plain:
            twin = indices.index(indices[n], n + 1)
            assert torch.equal(x[twin], x[n].flip(-1))
    assert len(everything(data.reference(flips=False))[0]) == 70


def test_reference_images_are_the_training_images() -> None:
    data = Digits(num_train=40, batch_size=40)
    x, _, ids = everything(data.reference())
    batch = next(iter(data.train_loader()))
    for image, name in zip(batch["x"], batch["ids"], strict=True):
        assert torch.equal(image, x[ids.index(name)])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_exact_passes_share_images_between_ranks_without_repeats(world: int) -> None:
    data = Digits(num_train=40, batch_size=16, num_val=20)
    indices = [everything(data.reference(rank=r, world=world, chunk=7))[1] for r in range(world)]
    assert sorted(i for part in indices for i in part) == list(range(40))
    loaders = [list(data.val_loader(rank=r, world=world)) for r in range(world)]
    assert len({len(batches) for batches in loaders}) == 1
    seen = [i for batches in loaders for b in batches for i in b["ids"]]
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 20


def test_validation_with_fewer_images_than_ranks_has_empty_batches_not_repeats() -> None:
    data = Digits(batch_size=8, num_val=2)
    loaders = [list(data.val_loader(rank=r, world=4)) for r in range(4)]
    assert [len(batches) for batches in loaders] == [1] * 4
    assert [tuple(batches[0]["x"].shape) for batches in loaders] == [(1, 1, 8, 8)] * 2 + [(0, 1, 8, 8)] * 2


def test_validation_is_the_same_every_time_and_not_mirrored() -> None:
    data = Digits(batch_size=64, flip=True)
    loader = data.val_loader()
    first, second = list(loader), list(loader)
    assert [b["ids"] for b in first] == [b["ids"] for b in second]
    held, _, ids = everything(data.held_out())
    for image, name in zip(first[0]["x"], first[0]["ids"], strict=True):
        assert torch.equal(image, held[ids.index(name)])


def test_without_a_test_split_images_outside_the_subset_are_held_out(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"{i}.png", i)
    for options, train, held in [({"num_val": 3}, 7, 3), ({"num_val": 256}, 5, 5), ({"num_train": 9}, 9, 1)]:
        data = Folder(path=str(tmp_path), **options)
        data.setup()
        _, _, ids = everything(data.held_out())
        assert (len(data.subset_ids), len(ids)) == (train, held)
        assert not set(ids) & set(data.subset_ids)
    full = Folder(path=str(tmp_path), num_train=10)
    assert len(full.val_loader()) == 0
    assert list(full.held_out()) == []


def test_a_seed_loader_of_the_network_module_comes_second() -> None:
    data = Digits()
    assert len(data.val_dataloader()) == 1
    seeds = [torch.arange(3)]
    trainer = SimpleNamespace(global_rank=1, world_size=2, lightning_module=SimpleNamespace(seed_loader=lambda: seeds))
    data.trainer = trainer  # type: ignore[assignment]
    first, second = data.val_dataloader()
    assert second is seeds
    assert next(iter(first))["ids"] == next(iter(data.val_loader(rank=1, world=2)))["ids"]
    trainer.lightning_module.seed_loader = lambda: None
    assert len(data.val_dataloader()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 5000}, r"num_train=5000 but digits has 1297 images to train on \(500 more are held out\)"),
        ({"num_train": 0}, "num_train=0 is too small"),
        ({"batch_size": 0}, "batch_size=0 is too small"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
    ],
)
def test_refusals_name_the_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Digits(**options).setup()
    assert "\n" not in str(error.value)


def test_steps_per_epoch_is_counted_in_optimiser_steps() -> None:
    assert len(Digits(batch_size=16, steps_per_epoch=7).train_loader(accumulate=2)) == 14


def test_sizes() -> None:
    assert next(iter(Digits(size=16, batch_size=4).train_loader()))["x"].shape == (4, 1, 16, 16)


# The command line


@pytest.mark.parametrize("name", ["Digits", "Toy", "Vision", "Folder", "Shards"])
def test_configurations_take_common_options_and_refuse_unknown_ones(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FlowDataModule, "data")
    own = {"Folder": ["--data.path=x"], "Shards": ["--data.train=x.tar"]}.get(name, [])
    config = parser.parse_args([f"--data=kinetic.data.{name}", "--data.batch_size=64", "--data.num_train=128", *own])
    made = parser.instantiate(config).data
    assert (made.batch_size, made.num_train) == (64, 128)
    with pytest.raises(Exception, match="nonsense"):
        parser.parse_args([f"--data=kinetic.data.{name}", "--data.nonsense=64", *own])


def test_patterns_pass_through_the_command_line_as_they_are() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FlowDataModule, "data")
    for pattern in ("a/x-{00..03}.tar.gz", "a/*.tar", "pipe:curl -s https://host/a.tar", "[a.tar, b.tar]"):
        config = parser.parse_args(["--data=kinetic.data.Shards", f"--data.train={pattern}"])
        expected = ["a.tar", "b.tar"] if pattern.startswith("[") else pattern
        assert parser.instantiate(config).data.train == expected


# Toy


@pytest.mark.parametrize("name", ["checkerboard", "moons", "eight_gaussians", "spiral"])
def test_toy_points_are_seeded_spread_over_the_square_and_split(name: Any) -> None:
    data = Toy(distribution=name, points=4000, batch_size=100)
    x, _, _ = everything(data.reference())
    assert data.shape == (2,)
    assert 0.8 < float(x.abs().max()) < 1.1
    held, _, _ = everything(data.held_out())
    assert not torch.isin(held[:, 0], x[:, 0]).all()
    assert torch.equal(x, everything(Toy(distribution=name, points=4000).reference())[0])
    batch = next(iter(data.train_loader()))
    assert (batch["labels"] is None) == (data.num_classes is None)


def test_the_checkerboard_fills_every_other_cell_evenly() -> None:
    x, _, _ = everything(Toy(points=8000, num_val=0).reference())
    cells = ((x + 1) * 2).long()
    counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16).view(4, 4)
    even = (torch.arange(4).view(4, 1) + torch.arange(4)) % 2 == 0
    assert int(counts[~even].sum()) == 0
    assert int(counts[even].min()) > 850


def test_labels_of_the_eight_gaussians_name_the_nearest_centre() -> None:
    data = Toy(distribution="eight_gaussians", points=500, batch_size=500)
    batch = next(iter(data.train_loader()))
    angle = torch.atan2(batch["x"][:, 1], batch["x"][:, 0])
    assert torch.equal((angle / (torch.pi / 4)).round().long() % 8, batch["labels"])


@pytest.mark.parametrize("options", [{"flip": True}, {"size": 8}, {"grayscale": True}, {"points": 0}])
def test_toy_refuses_options_for_pictures(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$"):
        Toy(**options)


# Folders


def test_a_folder_with_class_folders(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "cat" / f"{i}.png", i)
        save(tmp_path / "dog" / "deep" / f"{i}.jpg", 100 + i)
    save(tmp_path / ".hidden" / "x.png", 0)
    data = Folder(path=str(tmp_path), num_val=0, batch_size=8, grayscale=True)
    batch = next(iter(data.train_loader()))
    assert (data.class_names, data.num_classes, data.shape) == (("cat", "dog"), 2, (1, 8, 8))
    assert [("cat", "dog")[k] for k in batch["labels"].tolist()] == [i.split("/")[0] for i in batch["ids"]]
    assert set(batch["ids"]) == {f"cat/{i}.png" for i in range(4)} | {f"dog/deep/{i}.jpg" for i in range(4)}
    flat = Folder(path=str(tmp_path), classes=False)
    flat.setup()
    assert flat.num_classes is None


@pytest.mark.parametrize("workers", [0, 2])
def test_uncached_folders_keep_the_order_and_resume(tmp_path: Path, workers: int) -> None:
    for i in range(9):
        save(tmp_path / f"{i}.png", i * 20, size=(12, 8))
    cached = Folder(path=str(tmp_path), num_val=2, batch_size=4, size=6, cache=True)
    data = Folder(path=str(tmp_path), num_val=2, batch_size=4, size=6, cache=False, num_workers=workers)
    expected = list(cached.train_loader())[:2]
    loader = data.train_loader()
    steps = iter(loader)
    got = [next(steps), next(steps)]
    for a, b in zip(expected, got, strict=True):
        assert a["ids"] == b["ids"]
        assert torch.equal(a["x"], b["x"])
        torch.testing.assert_close(b["x"][:, 0, 0, 0], torch.tensor([int(i[0]) * 20 / 127.5 - 1 for i in b["ids"]]))
    whole = data.train_loader()
    straight = [b["ids"] for _ in range(2) for b in whole]
    resumed = data.train_loader()
    resumed.load_state_dict({"batches": 1})
    assert [b["ids"] for _ in range(2) for b in resumed] == straight[1:]
    assert torch.equal(everything(data.reference(chunk=3))[0], everything(cached.reference())[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_decoded_when_first_needed_and_once(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a first batch that waits for all images, one that is decoded twice, and one that takes another's place."""
    for i in range(11):
        save(tmp_path / f"{i:02}.png", i * 9)
    read: list[int] = []
    told = LazyPool._keep
    monkeypatch.setattr(LazyPool, "_keep", lambda self, rows, x: read.extend(rows.tolist()) or told(self, rows, x))
    options = {"path": str(tmp_path), "num_val": 2, "batch_size": 4, "num_workers": workers}
    loader = Folder(**options).train_loader()
    plain = Folder(**options, cache=False).train_loader()
    batches, expected = [], []
    for _ in range(4):  # epochs of 3 batches, 12 of 9 images: the second begins with three that are known
        batches += list(loader)
        expected += list(plain)
        if len(batches) == 3:
            assert sorted(read) == list(range(9))
    assert sorted(read) == list(range(9))
    for one, two in zip(batches, expected, strict=True):
        assert one["ids"] == two["ids"]
        assert torch.equal(one["x"], two["x"])
    read.clear()
    begun = Folder(**options)
    next(iter(begun.train_loader()))
    assert len(read) == 4
    reference, _, _ = everything(begun.reference())
    assert sorted(read) == list(range(9))
    assert torch.equal(reference, everything(Folder(**options, cache=False).reference())[0])


def test_a_batch_larger_than_the_subset_is_kept_as_it_is(tmp_path: Path) -> None:
    """Kills: an image that is asked for twice in one batch."""
    for i in range(3):
        save(tmp_path / f"{i}.png", i * 9)
    options = {"path": str(tmp_path), "num_val": 0, "batch_size": 8}
    one, two = (next(iter(Folder(**options, cache=cache).train_loader())) for cache in (True, False))
    assert torch.equal(one["x"], two["x"])


def test_workers_prefetch_but_the_state_counts_what_was_delivered(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i:02d}.png", i)
    loader = Folder(path=str(tmp_path), num_val=0, batch_size=2, cache=False, num_workers=2).train_loader()
    steps = iter(loader)
    next(steps)
    assert loader.state_dict() == {"batches": 1}


def test_loading_leaves_the_random_state_of_the_network_alone(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png", i)
    data = Folder(path=str(tmp_path), num_val=1, batch_size=2, cache=False, flip=True)
    before = torch.get_rng_state()
    list(data.train_loader())
    list(data.reference())
    assert torch.equal(torch.get_rng_state(), before)


def refusal(**options: Any) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        for _ in (data := Folder(num_val=0, **options)).train_loader():
            pass
    del data
    return str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["text", "truncated"])
def test_an_undecodable_image_is_named(tmp_path: Path, workers: int, kind: str) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", i, size=(64, 64))
    bad = tmp_path / "oops.png"
    bad.write_bytes(b"no image" if kind == "text" else (tmp_path / "1.png").read_bytes()[:-30])
    message = refusal(path=str(tmp_path), cache=False, num_workers=workers, batch_size=4)
    assert "oops.png" in message
    assert "skip_bad=true" in message
    data = Folder(path=str(tmp_path), num_val=0, skip_bad=True)
    with pytest.warns(UserWarning, match=r"skipped 1 of 4 images .* oops\.png"):
        data.setup()
    assert data.subset_ids == ["0.png", "1.png", "2.png"]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    assert "does not exist" in refusal(path=str(tmp_path / "nowhere"))
    assert "holds no images" in refusal(path=str(tmp_path))
    save(tmp_path / "train" / "0.png", 0)
    save(tmp_path / "test" / "0.png", 0)
    assert "test_path" in refusal(path=str(tmp_path))
    save(tmp_path / "sizes" / "0.png", 0)
    save(tmp_path / "sizes" / "1.png", 0, size=(9, 7))
    assert "1.png is 9x7 pixels but others are 8x8: pass size=N" in refusal(path=str(tmp_path / "sizes"))
    save(tmp_path / "a" / "cat" / "0.png", 0)
    save(tmp_path / "a" / "dog" / "0.png", 0)
    save(tmp_path / "b" / "cow" / "0.png", 0)
    assert "cow/0.png is of a class" in refusal(path=str(tmp_path / "a"), test_path=str(tmp_path / "b"))
    save(tmp_path / "a" / "x.png", 0)
    assert "x.png is in no class folder" in refusal(path=str(tmp_path / "a"), classes=True)


def test_links_are_followed_and_may_go_round(tmp_path: Path) -> None:
    save(tmp_path / "far" / "1.png", 1)
    save(tmp_path / "here" / "0.png", 0)
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "here")
    assert list_images(tmp_path / "here") == ["0.png", "link/1.png"]


@pytest.mark.parametrize(("mode", "value"), [("L", 77), ("RGBA", 77), ("P", 51), ("1", 255), ("I;16", 77)])
def test_modes_become_three_channels(tmp_path: Path, mode: str, value: int) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((4, 4), value * 257, dtype=np.uint16)).save(tmp_path / "0.png")
    else:
        save(tmp_path / "0.png", value, mode=mode, size=(4, 4))
    x, _, _ = everything(Folder(path=str(tmp_path), num_train=1).reference())
    assert x.shape == (1, 3, 4, 4)
    torch.testing.assert_close(x, torch.full_like(x, value / 127.5 - 1))


# torchvision


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(header + array.tobytes())
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(header + array.tobytes())


def test_mnist_from_its_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in [("train", 20), ("t10k", 10)]:
        arrays[split] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / "MNIST" / "raw" / f"{split}-images-idx3-ubyte", arrays[split])
        write_idx(tmp_path / "MNIST" / "raw" / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    data = Vision(dataset="mnist", root=str(tmp_path))
    x, _, ids = everything(data.reference())
    assert data.shape == (1, 28, 28)
    assert ids[7] == "mnist/train/00007"
    torch.testing.assert_close(x[7, 0], torch.from_numpy(arrays["train"][7]).float() / 127.5 - 1)
    assert sum(len(x) for x, _, _ in data.held_out()) == 10
    assert data.num_classes == 10


class FakeCelebA:
    base_folder = "celeba"

    def __init__(self, root: str, split: str, download: bool) -> None:
        self.root, self.filename = root, ["000001.jpg", "000002.jpg"] if split == "train" else ["000003.jpg"]


def test_celeba_is_read_lazily_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "CelebA", FakeCelebA)
    for i in (1, 2, 3):
        save(tmp_path / "celeba" / "img_align_celeba" / f"{i:06d}.jpg", 50 * i, size=(17, 21))
    data = Vision(dataset="celeba", root=str(tmp_path), size=16, grayscale=True)
    x, _, ids = everything(data.reference())
    assert x.shape == (2, 1, 16, 16)
    assert ids == ["000001.jpg", "000002.jpg"]
    assert everything(data.held_out())[2] == ["000003.jpg"]
    assert data.num_classes is None


@pytest.mark.parametrize("name", ["cifar10", "mnist", "fashion_mnist", "celeba"])
def test_missing_files_name_the_option_that_fetches_them(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} not found in {tmp_path}/: pass --data.download true[^\n]*$"):
        Vision(dataset=name, root=str(tmp_path)).setup()
