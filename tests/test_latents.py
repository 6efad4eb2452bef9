"""From a folder of photographs to latents, to a network trained on them, to pictures; and what goes wrong on the way.

The photographs are 16 of CIFAR-10's test images; the autoencoder is a tiny random one.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import kinetic.callbacks.kpe
import kinetic.data.encoding
from kinetic.callbacks.stopping import Interrupted
from kinetic.cli import main
from kinetic.cli.encoding import encode
from kinetic.cli.importing import import_file
from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.data import Folder, Shards
from kinetic.data.latents import Latents
from kinetic.data.pixels import to_uint8
from kinetic.errors import KineticError
from kinetic.memorization.training_set import TrainingSet, open_training_set
from kinetic.memorization.views import View, view_of
from kinetic.models.autoencoder import Autoencoder, load_autoencoder
from kinetic.models.opening import open_empirical, open_run
from kinetic.trust import OWN
from kinetic.units import energies_of, energy_label
from tests.public import published

diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
PHOTOS = Path(__file__).parent / "photographs"
QUICK = ["--accelerator", "cpu", "--num", "3", "--steps", "2"]


def tiny_vae(folder: Path, *, latent: int = 3, channels: int = 3, seed: int = 0) -> Path:
    """Write a random autoencoder that halves height and width, with scaling_factor 0.5.

    Its latents have three channels, so that only what is written down tells them from pictures.
    """
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (4, 4), "norm_num_groups": 2, "layers_per_block": 1, "scaling_factor": 0.5}
    net = diffusers.AutoencoderKL(
        in_channels=channels, out_channels=channels, latent_channels=latent, **blocks, **sizes
    )
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the autoencoder `vae` and the latents of the photographs at 16 x 16, 5 to a shard."""
    folder = tmp_path_factory.mktemp("latents")
    before = Path.cwd()
    os.chdir(folder)
    try:
        tiny_vae(folder / "vae")
        encode([str(PHOTOS), "latents", *ENCODE])
    finally:
        os.chdir(before)
    return folder


ENCODE = ["--vae", "vae", "--size", "16", "--per-shard", "5", "--batch-size", "2", "--accelerator", "cpu"]


@pytest.fixture
def here(made: Path, workdir: Path) -> Path:
    """The same in an empty folder of its own."""
    shutil.copytree(made, workdir, dirs_exist_ok=True)
    return workdir


def photos() -> dict[str, torch.Tensor]:
    """The photographs at 16 x 16 by id, [3, 16, 16] in [-1, 1]."""
    data = Folder(path=str(PHOTOS), size=16, num_val=0)
    return {name: one for x, _, names in data.reference() for one, name in zip(x, names, strict=True)}


def encoded(folder: str, **options: object) -> dict[str, torch.Tensor]:
    data = Shards(train=folder, num_val=0, **options)
    return {name: one for x, _, names in data.reference() for one, name in zip(x, names, strict=True)}


def test_latents_are_normalised_and_back():
    """Kills: mean and std the other way round, the scale divided by, a channel's number for all."""
    latents = Latents(vae="a", scale=0.5, mean=(1.0, 0.0), std=(2.0, 1.0))
    z = torch.tensor([3.0, 3.0]).reshape(1, 2, 1, 1)
    assert latents.normalised(z).flatten().tolist() == [0.5, 1.5]
    assert torch.equal(latents.raw(latents.normalised(z)), z)
    assert Latents.of(json.loads(json.dumps(latents.to_dict())), "it") == latents


@pytest.mark.parametrize(
    "change",
    [
        *({"vae": 3}, {"scale": 0}, {"scale": True}, {"std": [0.0]}, {"mean": [1.0], "std": [1.0, 2.0]}),
        *({"sha256": "x"}, {"posterior": "mode"}, {"more": 1}, {"mean": [float("nan")]}, {"vae": "a\nb"}),
    ],
)
def test_a_record_of_latents_is_checked(change):
    """Kills: any of the checks; a division by a std of 0."""
    with pytest.raises(KineticError, match=r"^it is damaged: latents"):
        Latents.of({"vae": "a", **change}, "it")


def test_samples_of_the_posterior_depend_on_the_image_alone(made):
    """Kills: noise of the batch or of a global generator; a sample that is the mean; noise without the std."""
    loaded = load_autoencoder(str(made / "vae"))
    sampler = Autoencoder(loaded.net, Latents(vae="vae", posterior="sample"))
    images, names = torch.stack(list(photos().values())[:3]), list(photos())[:3]
    whole = sampler.encode(images, names)
    alone = sampler.encode(images[2:], names[2:])
    torch.testing.assert_close(whole[2:], alone, rtol=1e-5, atol=1e-6)
    posterior = loaded.net.encode(images).latent_dist
    spread = (whole - posterior.mean) / posterior.std
    assert 0.8 < float(spread.std()) < 1.2
    assert not torch.allclose(spread[0], spread[1])


def test_encoding_keeps_ids_labels_and_the_record(here):
    """Kills: ids or labels in another order, latents of another image, a scale that is not applied, a record unread."""
    data = Shards(train="latents", num_val=0, num_train=10)
    data.setup()
    assert (data.shape, data.num_classes, data.class_names) == ((3, 8, 8), 2, ("cat", "ship"))
    record = json.loads(Path("latents/manifest.json").read_text())["latents"]
    loaded = load_autoencoder("vae")
    assert data.latents == Latents.of(record, "it")
    assert (record["vae"], record["scale"], record["posterior"]) == ("vae", 0.5, "mean")
    assert record["sha256"] == loaded.latents.sha256
    assert {name.split("/")[0] for name in encoded("latents")} == {"cat", "ship"}
    for x, rows, labels in data.labelled(held_out=False, limit=99):
        for one, row, label in zip(x, rows.tolist(), labels.tolist(), strict=True):
            name = sorted(data.subset_ids)[row]
            assert data.class_names[label] == name.split("/")[0]
            expected = 0.5 * loaded.net.encode(photos()[name][None]).latent_dist.mean
            torch.testing.assert_close(one[None], expected, rtol=1e-4, atol=1e-5)


def test_what_is_whole_is_kept_and_nothing_is_seen_before_the_end(here, monkeypatch, capsys):
    """Kills: encoding all shards anew, tars under their names before all are there, other arguments taken."""
    write, written = kinetic.data.encoding.write_shard, []

    def failing(path, name, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        return write(path, name, *rest)

    monkeypatch.setattr(kinetic.data.encoding, "write_shard", failing)
    with pytest.raises(Interrupted, match="the same command goes on"):
        encode([str(PHOTOS), "again", *ENCODE])
    with pytest.raises(KineticError, match="no shards"):
        Shards(train="again").setup()
    with pytest.raises(KineticError, match=r"again holds latents of another posterior \(mean, now sample\)"):
        encode([str(PHOTOS), "again", *ENCODE, "--posterior", "sample"])
    monkeypatch.setattr(kinetic.data.encoding, "write_shard", lambda *a: written.append(a[1]) or write(*a))
    encode([str(PHOTOS), "again", *ENCODE])
    assert sorted(written) == [f"train-{n:05d}.tar" for n in range(4)]  # each once
    for file in Path("latents").glob("*"):
        assert file.read_bytes() == (Path("again") / file.name).read_bytes(), file.name
    assert sorted(p.name for p in Path("again").glob(".*")) == [".encoding.json"]
    encode([str(PHOTOS), "again", *ENCODE])
    assert len(written) == 4
    assert "All is there already" in capsys.readouterr().out


def test_mirror_images_are_views_of_their_images_and_never_held_out(here):
    """Kills: mirroring latents instead of images, a mirror image that counts as the second-nearest, or as held out."""
    encode([str(PHOTOS), "flipped", *ENCODE, "--flip", "--num-val", "4"])
    data = Shards(train="flipped")
    found = {i: x for x, _, ids in [next(iter(data.reference()))] for i, x in zip(ids, x, strict=True)}
    assert data.num_training == 24
    assert data.num_held_out == 4
    held = {name for _, _, ids in data.held_out() for name in ids}
    assert held.isdisjoint(found)
    assert not any("mirrored" in name for name in held)
    loaded, name = load_autoencoder("vae"), next(iter(found))
    mirrored = loaded.encode(photos()[name].flip(-1)[None], ["x"])
    training = TrainingSet.of(data)
    assert training.index.distinct == 12
    d1, ratio = training.measure(mirrored, torch.zeros(1, dtype=torch.int64))[0, [1, 3]]
    assert d1 < 1e-4
    assert ratio < 1e-3
    with pytest.raises(KineticError, match="flip"):
        Shards(train="flipped", flip=True).setup()


def test_shards_of_latents_say_whose_they_are(here):
    """Kills: latents scaled twice, another autoencoder named in vain, a picture taken for latents."""
    with pytest.raises(KineticError, match=r"scaled by 0.5 already: leave out scale=0.5"):
        Shards(train="latents", scale=0.5).setup()
    moved = Shards(train="latents", vae="elsewhere")
    moved.setup()
    assert moved.latents.vae == "elsewhere"
    assert moved.latents.sha256 is not None
    Path("latents/manifest.json").unlink()
    bare = Shards(train="latents", scale=2.0, vae="vae")
    bare.setup()
    assert bare.latents == Latents(vae="vae", scale=2.0)
    assert float(next(iter(encoded("latents", scale=2.0).values())).std()) == pytest.approx(
        2 * float(next(iter(encoded("latents").values())).std()), rel=1e-4
    )


def config(callbacks: list, **data: object) -> str:
    """Write a recipe: a tiny DiT on the latents, two steps and a validation."""
    dit = {"depth": 1, "hidden_size": 16, "num_heads": 2, "input_size": 8, "in_channels": 3, "num_classes": 2}
    settings = {
        "run": {"wandb": "disabled", "name": "run"},
        "network": {"class_path": "kinetic.nn.DiT", "init_args": dit},
        "model": {"ema_decay": 0.9, "samples": {"num": 4, "batch_size": 4}, "sampler": {"steps": 2}},
        "data": {
            "class_path": "kinetic.data.Shards",
            "init_args": {"train": "latents", "batch_size": 4, "num_val": 4, **data},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "enable_progress_bar": False,
            "callbacks": [{"class_path": f"kinetic.callbacks.{name}", "init_args": args} for name, args in callbacks],
        },
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(settings))
    return "recipe.yaml"


MONITORS = [("KPECallback", {}), ("MemorizationCallback", {}), ("ReportCallback", {})]


@pytest.mark.filterwarnings("ignore")
def test_two_commands_and_pictures(here, monkeypatch, capsys):
    """Kills: a run that forgets its autoencoder, latents shown or exported for pictures, energies in pixels' words."""
    drawn, write = [], kinetic.callbacks.kpe.write_grid
    monkeypatch.setattr(kinetic.callbacks.kpe, "write_grid", lambda p, x, *a: drawn.append(x) or write(p, x, *a))
    train(["--config", config(MONITORS)])
    assert [tuple(x.shape) for x in drawn] == [(4, 3, 16, 16)]
    assert pq.read_schema("runs/run/kpe.parquet").metadata[b"space"] == b"latents"
    assert pq.read_schema("runs/run/memorization.parquet").metadata[b"space"] == b"latents"
    assert "squared latent units" in (page := Path("runs/run/report.html").read_text())
    assert "pixel units" not in page
    origin = open_run("run")
    assert origin.field.space == "latents"
    assert origin.latents.vae == "vae"
    assert open_empirical("run", trust=OWN).field.space == "latents"
    sample(["run", *QUICK, "--out", "out", "--format", "npz,png"])
    out = Path("out")
    said = capsys.readouterr().out
    assert "squared latent units" in said
    assert "in latents" in said
    pictures, latents = (np.load(out / f"{name}.npz")["arr_0"] for name in ("samples", "latents"))
    assert (pictures.shape, pictures.dtype, latents.shape) == ((3, 16, 16, 3), np.uint8, (3, 3, 8, 8))
    expected = to_uint8(load_autoencoder("vae").net.decode(torch.from_numpy(latents) / 0.5).sample.clamp(-1, 1))
    assert np.abs(pictures.astype(int) - expected.numpy()).max() <= 1
    assert np.array_equal(np.asarray(Image.open(out / "images" / "000002.png")), pictures[2])
    assert json.loads((out / "memorization.json").read_text())["space"] == "latents"
    assert "squared latent units" in (page := (out / "report.html").read_text())
    assert "pixel units" not in page
    sample(["run", "--accelerator", "cpu", "--steps", "2", "--index", "2", "--out", "one"])
    assert np.abs(np.asarray(Image.open("one/sample-2.png")).astype(int) - pictures[2]).max() <= 1

    training = open_training_set(Path("runs/run"), trust=OWN, space="pixels", decode=load_autoencoder("vae").decode)
    assert training.view.space == "decoded pixels"
    sample(["run", *QUICK, "--out", "pixels", "--f-mem-space", "pixels"])
    assert json.loads(Path("pixels/memorization.json").read_text())["space"] == "decoded pixels"
    rows = training.measure(torch.from_numpy(latents), torch.arange(3))
    assert pq.read_table("pixels/samples.parquet")["d1"].to_numpy() == pytest.approx(rows[:, 1].numpy(), rel=1e-4)

    shutil.move("vae", "away")
    sample(["run", *QUICK, "--out", "bare"])
    assert "latents are not decoded: the autoencoder vae" in (said := capsys.readouterr().err)
    assert len(said.strip().splitlines()) == 1 or "Sampling" in said
    assert np.load("bare/samples.npz")["arr_0"].shape == (3, 3, 8, 8)
    assert not Path("bare/images").exists()
    sample(["run", *QUICK, "--out", "named", "--vae", "away"])
    assert np.array_equal(np.load("named/samples.npz")["arr_0"], pictures)
    for options, words in (
        (["--format", "png"], "are no pictures"),
        (["--f-mem-space", "pixels"], "needs the autoencoder"),
        (["--f-mem-space", "nothing"], "no space to measure F_mem in"),
        (["--vae", str(tiny_vae(here / "wide", latent=16))], "16 channels, but samples of shape"),
        (["--vae", str(tiny_vae(here / "other", seed=1))], "other weights"),
    ):
        with pytest.raises(KineticError, match=words):
            sample(["run", *QUICK, "--out", "bad", *options])
    with pytest.raises(KineticError, match=r"scaled by 0\.5 already"):
        train(["--config", config([], scale=0.5)])


@pytest.mark.filterwarnings("ignore")
def test_imported_latents_are_decoded_as_their_run_says(here):
    """Kills: the record of an imported run left unread, its own scale replaced by the autoencoder's."""
    torch.save(published("sit"), "sit.pt")
    tiny_vae(here / "vae", latent=4)
    import_file(["sit.pt", "--vae", "vae", "--vae-scale", "0.25", "--heads", "3", "--name", "sit"])
    sample(["sit", *QUICK, "--out", "out", "--labels", "0"])
    pictures, latents = (np.load(f"out/{name}.npz")["arr_0"] for name in ("samples", "latents"))
    expected = to_uint8(load_autoencoder("vae").net.decode(torch.from_numpy(latents) / 0.25).sample.clamp(-1, 1))
    assert np.abs(pictures.astype(int) - expected.numpy()).max() <= 1


@pytest.mark.filterwarnings("ignore")
def test_validation_goes_on_without_the_autoencoder_and_measures_in_decoded_pixels_with_it(here, recwarn):
    """Kills: a missing autoencoder that ends training, or is not told; a space that the callback does not obey."""
    train(["--config", config([("MemorizationCallback", {"space": "pixels"})])])
    assert pq.read_schema("runs/run/memorization.parquet").metadata[b"space"] == b"decoded pixels"
    shutil.rmtree("runs")
    shutil.rmtree("vae")
    train(["--config", config([("KPECallback", {}), ("MemorizationCallback", {"space": "pixels"})])])
    said = [str(one.message) for one in recwarn]
    assert sum("latents are not decoded: the autoencoder vae" in text for text in said) == 1
    assert sum("memorization is not measured: F_mem in pixels needs" in text for text in said) == 1
    assert list(Path("runs/run/samples").glob("*.png"))


def test_features_are_a_space_too(here):
    """Kills: features of latents where those of pictures are meant; distances that are not those of the features."""
    data = Folder(path=str(PHOTOS), size=16, num_val=4, flip=True)
    view = view_of("pca:3", data)
    training = TrainingSet.of(data, view=view)
    assert training.view.space == "features pca:3"
    x = next(iter(data.held_out()))[0]
    rows = training.measure(x, torch.arange(len(x)))
    every = torch.cat([view(one) for one, _, _ in data.reference()])
    assert len(every) == 24  # mirror images included
    assert rows[:, 1].numpy() == pytest.approx(torch.cdist(view(x), every).min(1).values.numpy(), rel=1e-3)
    with pytest.raises(KineticError, match="cannot be measured in latents"):
        view_of("latents", data)
    assert view_of("pixels", data) == View("pixels")
    decoded, net = [], load_autoencoder("vae")
    latents = Shards(train="latents", num_val=4)
    latents.setup()
    of_latents = view_of("pca:3", latents, decode=lambda x: decoded.append(len(x)) or net.decode(x))
    assert sum(decoded) == 12  # what the components are fitted on
    of_latents(next(iter(latents.held_out()))[0])
    assert sum(decoded) == 16


def test_energies_are_in_units_of_the_samples():
    """Kills: a label that stays what it was, or that of one report in the next."""
    with energies_of("latents"):
        assert "squared latent units" in energy_label()
        with energies_of("points"):
            assert "units of the points" in energy_label()
        with energies_of(None):
            assert "squared pixel units" in energy_label()
    assert energy_label() == "energy ½∫‖v‖²dt  (squared pixel units)"


def test_bad_autoencoders_are_one_line(here, monkeypatch, capsys):
    """Kills: a traceback for any of these; code or pickles that are read; a wait for the network."""
    tiny_vae(here / "gray", channels=1)
    Path("odd").mkdir()
    Path("odd/config.json").write_text('{"_class_name": "UNet2DModel"}')
    shutil.copytree("vae", "cut")
    file = Path("cut/diffusion_pytorch_model.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    shutil.copytree("vae", "pickled")
    net = load_autoencoder("vae").net
    Path("pickled/diffusion_pytorch_model.safetensors").unlink()
    torch.save(net.state_dict(), "pickled/diffusion_pytorch_model.bin")
    for vae, words in (
        ("gray", "takes images of 1 channels, and these have 3"),
        ("odd", "is a UNet2DModel, where AutoencoderKL is read"),
        ("cut", "cannot be loaded"),
        ("pickled", "cannot be loaded"),
        ("nowhere", "does not exist: pass a folder"),
        ("latents", "is no folder with config.json and safetensors"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["encode", str(PHOTOS), "out", *ENCODE, "--vae", vae])
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 1, vae
        assert len(said) == 1, vae
        assert words in said[0], vae
    with pytest.raises(KineticError, match="somebody/vae is no folder here, and was not downloaded before"):
        load_autoencoder("somebody/vae")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(KineticError, match=r"needs the package diffusers .*uv sync --extra diffusers"):
        load_autoencoder("vae")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(here):
    """Kills: shards of one process written by the other as well, or left out; a manifest that misses some."""
    command = [sys.executable, "-m", "kinetic", "encode", str(PHOTOS), "two", *ENCODE, "--devices", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    for file in Path("latents").glob("*"):
        assert file.read_bytes() == (Path("two") / file.name).read_bytes(), file.name
    with tarfile.open("two/train-00001.tar") as tar:
        assert len(tar.getnames()) == 10
