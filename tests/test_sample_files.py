"""Sets of samples on disk, and the pieces of the command `sample` that need no network."""

import csv
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from kinetic.cli.sample_options import parse, seeds_of
from kinetic.cli.sample_settings import Choices
from kinetic.flow.integration import METHODS, integrate
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.seeds import seed_range, seed_text
from kinetic.flow.shaping import KTS
from kinetic.samples import folder as sample_folder
from kinetic.samples.export import npz_file, png_folder, tar_shards, write_csv
from kinetic.samples.folder import check_room, claim, first_difference, write_record
from kinetic.samples.parts import holds, part_of, read_part, write_part
from kinetic.studies.controls import noised, stopped
from kinetic.tensors import seeded_noise


class Field:
    """A smooth field with classes, in place of a network."""

    num_classes = 3

    def __call__(self, x, t, labels=None):
        return torch.sin(x + t.reshape(-1, *[1] * (x.ndim - 1))) + 0.3


def part(seeds, shape=(3, 4, 5), labels=None, **options):
    found = draw(Field(), seeds, shape=shape, labels=labels, sampler=Sampler(steps=5))
    pictures = len(shape) == 3 and shape[0] in (1, 3)
    known = None if labels is None else torch.tensor(labels)
    return part_of(found, torch.tensor(seeds), known, pictures=pictures, **options)


def written(file, parts):
    with file as add:
        for one in parts:
            add(one)


def test_part_comes_back_as_it_was(tmp_path):
    made = part([4, 9], labels=[1, 2])
    write_part(tmp_path / "a/0.npz", made)
    back = read_part(tmp_path / "a/0.npz")
    assert back.x.dtype == np.uint8
    assert back.x.shape == (2, 4, 5, 3)
    assert np.array_equal(back.x, made.x)
    for name in ("seeds", "labels", "finite", "nfe", "power", "times"):
        assert np.array_equal(getattr(back.table, name), getattr(made.table, name)), name
    assert back.table.nfe.tolist() == [5, 5]
    assert back.table.kinds == made.table.kinds
    assert back.table.kinds["drift"] == ("x", -1)
    assert all(np.array_equal(back.table.columns[k], v) for k, v in made.table.columns.items())
    assert holds(tmp_path / "a/0.npz", [4, 9])
    assert not holds(tmp_path / "a/0.npz", [9, 4])
    assert not holds(tmp_path / "a/1.npz", [4, 9])


def test_cut_off_part_is_not_taken_for_one(tmp_path):
    path = tmp_path / "0.npz"
    write_part(path, part([1]))
    path.write_bytes(path.read_bytes()[:200])
    assert not holds(path, [1])
    with pytest.raises(ValueError, match="damaged"):
        read_part(path)


def test_only_exact_parts_keep_what_rounding_loses():
    x = draw(Field(), [1], shape=(1, 4, 4), sampler=Sampler(steps=5)).x
    assert torch.equal(part([1], (1, 4, 4), exact=True).images(), x)
    assert not torch.equal(part([1], (1, 4, 4)).images(), x)
    assert (part([1], (1, 4, 4)).images() - x.clamp(-1, 1)).abs().max() <= 0.5 / 127.5 + 1e-6
    assert part([1], (2,)).x.dtype == np.float32  # points are no pictures
    assert part([1], (4, 8, 8)).x.dtype == np.float32  # nor are latents


def test_npz_png_and_shards_hold_the_same_pixels(tmp_path):
    parts = [part([0, 1, 2], labels=[0, 1, 2]), part([7], labels=[1])]
    written(npz_file(tmp_path / "s.npz", count=4), parts)
    with np.load(tmp_path / "s.npz") as file:
        pixels, labels, seeds = file["arr_0"], file["arr_1"], file["seeds"]
    assert pixels.shape == (4, 4, 5, 3)
    assert pixels.dtype == np.uint8
    assert (labels.tolist(), seeds.tolist()) == ([0, 1, 2, 1], [0, 1, 2, 7])
    assert np.array_equal(pixels[3], parts[1].x[0])
    written(png_folder(tmp_path / "images"), parts)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"00000{i}.png" for i in (0, 1, 2, 7)]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images/000007.png")), pixels[3])
    written(tar_shards(tmp_path / "shards", per_shard=3), parts)
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == ["samples-00000.tar", "samples-00001.tar"]
    with tarfile.open(tmp_path / "shards/samples-00001.tar") as tar:
        assert tar.getnames() == ["000007.png", "000007.cls"]
        assert np.array_equal(np.asarray(Image.open(tar.extractfile("000007.png"))), pixels[3])
        assert tar.extractfile("000007.cls").read() == b"1"
        assert {m.mtime for m in tar} == {0}


def test_npz_is_the_same_however_it_was_cut(tmp_path):
    whole, cut = [part([0, 1, 2])], [part([0]), part([1, 2])]
    written(npz_file(tmp_path / "a.npz", count=3), whole)
    written(npz_file(tmp_path / "b.npz", count=3), cut)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_energies_are_one_row_a_sample_and_lose_nothing(tmp_path):
    table = part([0, 1], labels=[2, 0]).table
    write_csv(tmp_path / "e.csv", {"samples": table})
    with open(tmp_path / "e.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["seed"], r["label"], r["nfe"]) for r in rows] == [("0", "2", "5"), ("1", "0", "5")]
    assert [np.float32(r["energy"]) for r in rows] == table.columns["energy"].tolist()
    assert "setting" not in rows[0]
    write_csv(tmp_path / "e.csv", {"off": table, "landing": table})
    assert [line.split(",")[0] for line in (tmp_path / "e.csv").read_text().split()[1:]] == ["off"] * 2 + [
        "landing"
    ] * 2


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2], [3, 5, 6, 9], list(range(10, 60))])
def test_seeds_are_written_as_they_are_read(seeds):
    assert seed_range(seed_text(seeds)) == seeds


def test_num_and_seeds():
    assert seeds_of(parse([])) == list(range(64))
    assert seeds_of(parse(["--num", "3"])) == [0, 1, 2]
    assert seeds_of(parse(["--seeds", "4-6,9"])) == [4, 5, 6, 9]
    with pytest.raises(ValueError, match="--num must be 1 to 10,000,000, got 0"):
        seeds_of(parse(["--num", "0"]))


def sampler_of(args):
    return Choices(parse(args), torch.device("cpu")).settings("one")["one"].sampler


def test_options_reach_the_sampler():
    text = "--method heun2 --steps 7 --grid cosine --guidance 2 --alpha 0.03 --tau 0.4 --k 2 --landing-form linear"
    found = sampler_of([*text.split(), "--kts", "balanced"])
    kts = KTS(alpha=0.03, beta=0.01, tau=0.4, k=2.0, landing="linear")
    assert found == Sampler(method="heun2", steps=7, grid="cosine", guidance=2.0, kts=kts)
    assert sampler_of(["--grid", "0,0.5,1"]).grid == (0.0, 0.5, 1.0)


def settings(**changes):
    return {"sha256": "a", "checkpoint": "here", "samplers": {"samples": {"steps": 5, "tau": 0.6}}} | changes


def test_folder_of_the_same_samples_goes_on_and_any_other_is_refused(tmp_path):
    out = tmp_path / "out"
    assert claim(out, settings(), [0, 1], overwrite=False) is None
    write_record(out, settings(), [0, 1], 2)
    assert claim(out, settings(checkpoint="moved"), [0, 1, 2], overwrite=False)["batch"] == 2
    with pytest.raises(ValueError, match=r"sha256 a, now b.*--overwrite"):
        claim(out, settings(sha256="b"), [0, 1], overwrite=False)
    with pytest.raises(ValueError, match="steps 5, now 6"):
        claim(out, settings(samplers={"samples": {"steps": 6, "tau": 0.6}}), [0, 1], overwrite=False)
    with pytest.raises(ValueError, match="seeds 0-1"):
        claim(out, settings(), [1, 2], overwrite=False)
    assert (out / "sample.yaml").exists()


def test_overwrite_removes_samples_and_nothing_else(tmp_path):
    write_record(tmp_path, settings(), [0], 1)
    (tmp_path / "images").mkdir()
    for name in ("samples.npz", "images/000000.png", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert claim(tmp_path, settings(sha256="b"), [0], overwrite=True) is None
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "samples.npz").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        claim(tmp_path, settings(), [0], overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        claim(tmp_path / "file", settings(), [0], overwrite=True)
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "b none, now 2"


def test_full_disk_is_seen_before_the_start(tmp_path, monkeypatch):
    options = {"pictures": True, "samples": 1000, "copies": 2, "steps": 100, "exact": False}
    check_room(tmp_path / "new/folder", (3, 32, 32), **options)
    usage = type("usage", (), {"free": 10 * 2**20})
    monkeypatch.setattr(sample_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"not enough disk.* 15 MiB .*10 MiB are free"):
        check_room(tmp_path / "new/folder", (3, 32, 32), **options)
    check_room(tmp_path, (3, 32, 32), **options | {"samples": 100})


def test_flow_stopped_early_is_the_beginning_of_the_whole_flow():
    kts, x0 = KTS(tau=0.5), seeded_noise([1, 2], (3,)).double()
    sampler, net = stopped(Sampler(steps=50, kts=kts), 0.9), Field()
    short = integrate(net, x0, solver=sampler, kts=sampler.kts, end=sampler.end)
    whole = integrate(net, x0, steps=50, kts=kts, keep_path=2)
    at_end = int((whole.path_times - 0.9).abs().argmin())
    assert torch.allclose(short.x, whole.path[at_end], atol=1e-12)
    assert short.nfe == at_end
    energy = whole.power[:at_end].sum(0) / 50
    assert torch.allclose(short.energy, energy, rtol=1e-10)
    assert torch.allclose(short.power, whole.power[:at_end], rtol=1e-10)
    assert torch.allclose(short.times, whole.times[:at_end])
    assert torch.allclose(short.early, whole.early, rtol=1e-10)
    assert torch.allclose(short.late_fraction, short.late / short.energy)
    with pytest.raises(ValueError, match="between tau"):
        stopped(Sampler(kts=KTS(tau=0.98)), 0.97)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_stopped_early(method):
    net, x0 = Field(), seeded_noise([5], (2,)).double()
    sampler = stopped(Sampler(method=method, steps=64, rtol=1e-7, atol=1e-7), 0.9)
    x = integrate(net, x0, solver=sampler, end=sampler.end).x
    fine = stopped(Sampler(method="rk4", steps=256), 0.9)
    exact = integrate(net, x0, solver=fine, end=fine.end).x
    assert torch.allclose(x, exact, atol=2e-2 if method == "euler" else 1e-4)


def test_noise_moves_by_the_distance_and_depends_on_the_seed_alone():
    x, distance = torch.zeros(3, 1, 4, 4), torch.tensor([0.5, 1.0, 2.0])
    moved = noised(x, distance, [3, 4, 5])
    assert torch.allclose(moved.flatten(1).norm(dim=1), distance)
    assert torch.equal(noised(x[1:], distance[1:], [4, 5]), moved[1:])
    assert not torch.allclose(moved[0] / 0.5, seeded_noise([3], (1, 4, 4))[0] / seeded_noise([3], (1, 4, 4)).norm())
