"""A model passed on: a folder of weights and plain settings that samples as its run does, and what W&B is given."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file

import kinetic
from kinetic.callbacks import Artifacts
from kinetic.cli import main
from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.errors import KineticError
from kinetic.models.checkpoint import load_network, read_checkpoint, write_checkpoint
from kinetic.models.exporting import export_checkpoint, from_pretrained, push_to_hub
from kinetic.training.weights_and_biases import QuietWandb
from tests.conftest import TINY, inside, merged

pytestmark = pytest.mark.filterwarnings("ignore")
MEASURED = [{"class_path": f"kinetic.callbacks.{name}"} for name in ("KPECallback", "MemorizationCallback")]
CHANGES = {
    "network": {"init_args": {"num_classes": 10}},
    "trainer": {"max_steps": 6, "val_check_interval": 3, "callbacks": MEASURED},
    "model": {"samples": {"num": 8}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run of a network with classes, measured twice, exported as `model`."""
    with inside(tmp_path_factory.mktemp("home")) as folder:
        Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, CHANGES)))
        train(["--config", "tiny.yaml", "--run.name", "made"])
        export("made", "model")
    return folder


@pytest.fixture
def here(home, workdir):
    shutil.copytree(home, workdir, dirs_exist_ok=True, symlinks=True)
    return workdir


def export(*args: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", *args])
    assert stop.value.code in (None, 0)


def refused(capsys, *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return said[0]


def test_an_exported_model_is_the_averaged_network_of_its_run(here):
    """Kills: raw weights, names with a prefix, a lost class, another precision."""
    weights = load_file("model/model.safetensors")
    loaded = load_network("runs/made/checkpoints/last.ckpt")
    assert loaded.weights == "ema"
    assert list(weights) == sorted(loaded.net.state_dict())
    field = kinetic.from_pretrained("model")
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    labels = torch.tensor([0, 4, 10])
    assert torch.equal(field(x, t, labels), loaded.net(x, t, labels))
    assert (field.num_classes, field.shape) == (10, (1, 8, 8))
    drawn, own = (kinetic.draw(f, range(3), labels=1) for f in (field, kinetic.Field.of(loaded.net, shape=(1, 8, 8))))
    assert torch.equal(drawn.energy, own.energy)


def test_sample_draws_the_same_from_the_folder_as_from_the_run(here):
    sample(["made", "--num", "4", "--steps", "3", "--accelerator", "cpu", "--out", "one"])
    sample(["--checkpoint", "model", "--num", "4", "--steps", "3", "--accelerator", "cpu"])
    one, other = Path("one/energies.csv").read_text(), next(Path("model").rglob("energies.csv")).read_text()
    shared = [[line.split(",")[:4] for line in text.splitlines()] for text in (one, other)]
    assert shared[0] == shared[1]


def test_whoever_may_read_the_settings_may_read_the_weights(here):
    """Kills: weights with the mode that safetensors gives them, for their owner alone."""
    modes = {path.name: path.stat().st_mode for path in Path("model").iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_raw_weights_and_another_checkpoint_can_be_chosen(here, capsys):
    export("raw", "--checkpoint", "runs/made/checkpoints/last.ckpt", "--weights", "raw")
    raw = load_network("runs/made/checkpoints/last.ckpt", weights="raw").net.state_dict()
    assert all(torch.equal(value, raw[name]) for name, value in load_file("raw/model.safetensors").items())
    assert load_network("raw").weights == "raw"
    assert "--weights raw" in refused(capsys, "sample", "--checkpoint", "raw", "--weights", "ema")


def test_the_card_says_what_was_measured(here):
    card = Path("model/README.md").read_text()
    for words in ("library_name: kinetic", "# made", "Digits, 20 training images", "at step 6", "8 samples, step 6"):
        assert words in card, words
    assert "95 % interval" in card
    assert "| onset by energy | not measured |" in card  # by no callback of this run
    assert "kinetic sample --checkpoint" in card
    assert str(here) not in card + Path("model/config.json").read_text()
    early = Path("runs/made/onset.json")
    early.write_text(json.dumps({"step": 3, "epoch": 0}))
    export("made", "other")
    assert "| onset of copying | step 3 |" in Path("other/README.md").read_text()


def test_nothing_in_a_folder_is_executed(here, capsys):
    config = json.loads(Path("model/config.json").read_text())
    config["hyper_parameters"]["network"]["class_path"] = "subprocess.Popen"
    Path("model/config.json").write_text(json.dumps(config))
    assert "'subprocess.Popen' lies outside" in refused(capsys, "sample", "--checkpoint", "model")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda: Path("model/model.safetensors").write_bytes(b"\xff" * 100), "model.safetensors is damaged"),
        (lambda: Path("model/config.json").write_text("{"), "config.json cannot be read"),
        (lambda: Path("model/config.json").write_text('{"library_name": "diffusers"}'), "none of Kinetic's"),
        (lambda: Path("model/config.json").write_text('{"library_name": "kinetic", "weights": "ema"}'), "it lacks"),
        (lambda: Path("model/config.json").unlink(), "no exported model"),
    ],
)
def test_a_damaged_folder_is_one_line(here, capsys, harm, said):
    harm()
    assert said in refused(capsys, "sample", "--checkpoint", "model")


def test_export_refuses_in_one_line(here, capsys):
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("all of it")
    state = read_checkpoint("runs/made/checkpoints/last.ckpt")
    write_checkpoint({**state, "hyper_parameters": {**state["hyper_parameters"], "odd": torch.zeros(2)}}, "odd.ckpt")
    for args, why in (
        (("made", "full"), "no exported model"),
        (("absent", "out"), "absent"),
        (("made", "out", "--checkpoint", "x.ckpt"), "do not go together"),
        (("out", "--checkpoint", "x.ckpt"), "no checkpoint x.ckpt"),
        (("made", "out", "--push", "no-user"), "USER/NAME"),
        (("out", "--checkpoint", "odd.ckpt"), "not plain"),
    ):
        assert why in refused(capsys, "export", *args)
    assert not Path("out").exists()
    assert [p.name for p in Path("full").iterdir()] == ["thesis.tex"]


def test_the_hub_is_asked_for_these_files_alone(here, monkeypatch):
    asked: list[Any] = []

    class Hub:
        def create_repo(self, name: str, **how: Any) -> str:
            asked.append((name, how["private"]))
            return f"hub/{name}"

        def upload_folder(self, **how: Any) -> None:
            asked.append(how["allow_patterns"])

    def download(name: str, **how: Any) -> str:
        asked.append((name, how["revision"], how["allow_patterns"]))
        return "model"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = ["model.safetensors", "config.json", "README.md"]
    assert push_to_hub("model", "me/digits", private=True) == "hub/me/digits"
    assert from_pretrained("me/digits", revision="v1").num_classes == 10
    assert asked == [("me/digits", True), files, ("me/digits", "v1", files)]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    for name, why in (("me/digits", "the hub did not give it: division"), ("runs/a/b", "does not exist")):
        with pytest.raises(KineticError, match=why):
            from_pretrained(name)
    with pytest.raises(KineticError, match="no exported model"):
        push_to_hub("runs", "me/digits")


def test_an_export_can_be_repeated_and_is_whole(here):
    before = Path("model/model.safetensors").read_bytes()
    export_checkpoint("runs/made/checkpoints/last.ckpt", Path("model"))
    assert Path("model/model.safetensors").read_bytes() == before
    assert sorted(p.name for p in Path("model").iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_wandb_is_given_checkpoints_and_report(here, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(here / "data"))
    given: dict[str, Any] = {}

    class Run:
        def log_artifact(self, artifact: Any) -> None:
            given[artifact.name] = (artifact.type, sorted(artifact.manifest.entries))

    logger = QuietWandb(here / "runs/made", project="p", mode="offline", log_model=True)
    monkeypatch.setattr(logger, "_guarded", lambda call, *args: call(*args))
    monkeypatch.setattr(QuietWandb, "experiment", Run())
    Path("runs/made/report.html").write_text("<p>")

    class Trainer:
        default_root_dir, is_global_zero, loggers = "runs/made", True, [logger]

    Artifacts().on_fit_end(Trainer(), None)  # type: ignore[arg-type]
    kept = ["before-onset.ckpt", "best.ckpt", "last.ckpt"]
    assert given == {"model-made": ("model", kept), "report-made": ("report", ["report.html"])}
