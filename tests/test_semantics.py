"""Scores of classes by a classifier and by CLIP, against second implementations, and what the study makes of them."""

import json
import math
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from kinetic.cli.encoding import encode
from kinetic.cli.study import study
from kinetic.cli.train import train
from kinetic.errors import KineticError
from kinetic.metrics import classifier
from kinetic.metrics.classifier import fit_classifier
from kinetic.metrics.detection import difference_estimate
from kinetic.metrics.semantics import Scorer, Semantics, classifier_scorer, clip_scorer, prompts_of, semantics_of
from kinetic.metrics.statistics import Estimate
from kinetic.models.autoencoder import load_autoencoder
from kinetic.models.opening import open_run
from kinetic.studies.semantics import TENTHS, Judged, halves, parts_of, says, tenths
from kinetic.tensors import seeded_noise
from tests.conftest import inside
from tests.test_callbacks_balance import TOY, trained
from tests.test_latents import ENCODE, PHOTOS, tiny_vae
from tests.test_latents import config as latent_config
from tests.test_support import drawn

NAMES = ("cat", "dog", "fox")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights in a folder, with the files that its processor reads."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    text = small | {"vocab_size": len(tokens), "max_position_embeddings": 77} | ends
    vision = small | {"image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def test_clip_scores_are_those_of_torchmetrics(clip: Path) -> None:
    """Kills: cosines without 100, images in [-1, 1] taken for [0, 255], a prompt for another class."""
    from torchmetrics.functional.multimodal import clip_score
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(clip)
    kept = {name: getattr(model, name) for name in ("get_image_features", "get_text_features")}
    for name, call in kept.items():  # torchmetrics takes what older versions of transformers gave

        def plain(*args, call=call, **options):
            found = call(*args, **options)
            return found if isinstance(found, torch.Tensor) else found.pooler_output

        setattr(model, name, plain)
    processor = CLIPProcessor.from_pretrained(clip)
    for channels in (1, 3):
        images = seeded_noise(range(5), (channels, 20, 20)).clamp(-1, 1)
        prompts = prompts_of(NAMES)
        ours = clip_scorer(clip, prompts).scores(images)
        bytes_ = ((images + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
        for number, prompt in enumerate(prompts):
            for row in range(5):
                theirs = float(clip_score(bytes_[row], prompt, lambda: (model, processor)).detach())
                assert max(float(ours[row, number]), 0) == pytest.approx(theirs, abs=1e-3)
    assert ours.std() > 0.1


def test_scores_and_margins_by_hand() -> None:
    """Kills: a margin over the mean, over the best of all, of the wrong class; the smallest for the predicted one."""
    scores = torch.tensor([[1.0, 5.0, 3.0], [4.0, 0.0, 1.0]])
    asked = semantics_of(scores, torch.tensor([2, 0]))
    assert asked.score.tolist() == [3, 4]
    assert asked.margin.tolist() == [-2, 3]
    seen = semantics_of(scores)
    assert seen.prompted.tolist() == [1, 0]
    assert seen.margin.tolist() == [2, 3]
    for labels in ([3, 0], [-1, 0]):
        with pytest.raises(KineticError, match="class of 0 to 2"):
            semantics_of(scores, torch.tensor(labels))
    with pytest.raises(KineticError, match="at least 2 classes"):
        semantics_of(scores[:, :1])


def test_classifier_scores_are_log_probabilities_whose_margins_are_those_of_logits() -> None:
    """Kills: logits for log-probabilities, NaN images that get a class."""
    x = seeded_noise(range(60), (1, 4, 4))
    model = fit_classifier(x, torch.arange(60) % 3, steps=3)
    scorer = classifier_scorer(model)
    x[5] = torch.nan
    scores, logits = scorer.scores(x), model.logits(x)
    keep = torch.arange(60) != 5
    torch.testing.assert_close(scores[keep].exp().sum(1), torch.ones(59))
    labels = torch.arange(60) % 3
    torch.testing.assert_close(semantics_of(scores, labels).margin[keep], semantics_of(logits, labels).margin[keep])
    assert semantics_of(scores, labels).score[5].isnan()
    assert scorer.classes == 3


def test_the_interval_of_a_difference_covers_it() -> None:
    """Kills: the two exchanged, means of one side alone. The standard error of Gaussians is known."""
    draw = np.random.default_rng(2)
    a, b = draw.normal(3, 1, 400), draw.normal(1, 2, 100)
    found = difference_estimate(np.append(a, np.nan), b)
    assert found.value == pytest.approx(a.mean() - b.mean())
    error = math.hypot(a.std() / 20, b.std() / 10)
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.06)


def made(energy: np.ndarray, score: np.ndarray, classes: np.ndarray, *, prompted: bool = True) -> Judged:
    values = torch.from_numpy(score)
    return Judged(energy=energy, semantics=Semantics(torch.from_numpy(classes), values, -values), prompted=prompted)


def test_halves_and_tenths_are_those_of_sorted_energies() -> None:
    """Kills: halves turned round, the middle sample in both, tenths that differ in size, NaN in the lowest."""
    energy = np.random.default_rng(3).permutation(101).astype(float)
    found = made(np.append(energy, np.nan), np.append(2 * energy, 7.0), np.zeros(102, int))
    row = halves(found)[0]
    assert row["low_half"].value == pytest.approx(49)  # twice the mean of 0 to 49
    assert row["high_half"].value == pytest.approx(151)
    assert row["high_less_low"].value == pytest.approx(102)
    assert row["rho"].value == pytest.approx(1)
    assert row["n"] == 100
    rows = tenths(found)
    assert sum(one["n"] for one in rows) == 101
    assert {one["n"] for one in rows} <= {10, 11}
    assert [one["energy"] for one in rows] == sorted(one["energy"] for one in rows)
    assert rows[0]["margin"].value == pytest.approx(-2 * rows[0]["energy"])


def test_within_classes_what_only_classes_explain_is_gone() -> None:
    """Kills: halves over all beside the words within classes. Class 1 has more of both, and neither inside."""
    draw = np.random.default_rng(4)
    classes = np.repeat([0, 1], 200)
    found = made(classes * 10 + draw.normal(size=400), classes * 10 + draw.normal(size=400), classes)
    everywhere, inside_ = halves(found)[0], halves(found)[2]
    assert everywhere["high_less_low"].low > 9
    assert inside_["halves"] == "within classes"
    assert abs(inside_["high_less_low"].value) < 2.5
    assert abs(inside_["rho"].value) < 0.2
    parts = parts_of(found.energy, classes, 2)
    assert [int((parts[classes == one] == 1).sum()) for one in (0, 1)] == [100, 100]


@pytest.mark.parametrize(
    ("energy", "why"),
    [(np.ones(40), "all energies are 1"), (np.arange(19.0), "at least 20 finite samples, got 19")],
)
def test_energies_without_halves_leave_a_note(energy: np.ndarray, why: str) -> None:
    rows = halves(made(energy, energy, np.zeros(len(energy), int)))
    assert len(rows) == 4
    assert all(why in str(row["note"]) for row in rows)
    assert "no halves" in says(rows, made(energy, energy, np.zeros(len(energy), int)), SCORER)[0]
    assert len(tenths(made(energy, energy, np.zeros(len(energy), int)))) == TENTHS


SCORER = Scorer(name="classifier", unit="log-probability", compute=lambda x: x, classes=3)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1, 3, "as the paper reports"), (-3, -1, "contradicts the paper"), (-1, 1, "not seen here")],
)
def test_the_verdict_follows_the_intervals(low: float, high: float, words: str) -> None:
    """Kills: a verdict from the value alone, the confidence of a network without classes passed off as semantics."""
    row = {"of": "score", "halves": "all", "high_less_low": Estimate((low + high) / 2, low, high)}
    found = made(np.arange(4.0), np.arange(4.0), np.zeros(4, int), prompted=False)
    said = says([row, {**row, "of": "margin"}], found, SCORER)
    assert words in said[0]
    assert any("no class was asked for" in one for one in said)
    assert "21.87 and 24.62" in said[-1]


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{name}", "a {} {"])
def test_a_prompt_has_one_place_for_a_name(prompt: str) -> None:
    with pytest.raises(KineticError, match="a prompt has one"):
        prompts_of(NAMES, prompt)
    assert prompts_of(NAMES, "one {}, seen")[1] == "one dog, seen"


def test_folders_that_hold_no_safe_clip_are_one_line(clip: Path, tmp_path: Path) -> None:
    """Kills: weights that are unpickled."""
    with pytest.raises(KineticError, match="holds no CLIP in safetensors"):
        clip_scorer(tmp_path, ["a"])
    for path in clip.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    from transformers import CLIPModel

    torch.save(CLIPModel.from_pretrained(clip).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(KineticError, match="holds no CLIP in safetensors"):
        clip_scorer(tmp_path, ["a"])


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on digits of ten classes."""
    import yaml

    from tests.conftest import TINY, merged

    folder = tmp_path_factory.mktemp("classes")
    with inside(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = merged(
            TINY, {"network": {"init_args": {"num_classes": 10}}, "data": {"init_args": {"num_train": 60}}}
        )
        Path("tiny.yaml").write_text(yaml.safe_dump(settings))
        trained(Path("tiny.yaml"))
    return folder


@pytest.mark.filterwarnings("ignore")
def test_study_by_classifier_and_by_clip(classes: Path, clip: Path, monkeypatch, capsys) -> None:
    """Kills: labels that do not belong to the samples, a table of another scorer."""
    monkeypatch.setattr(classifier, "STEPS", (5, 5))
    with inside(classes):
        study(["semantics", "made", "--num", "40", "--steps", "3"])
        found = json.loads(Path("runs/made/studies/semantics/study.json").read_text())
        assert found["table"]["of"] == ["score", "margin", "score", "margin"]
        assert found["table"]["n"][:2] == [40, 40]
        assert found["protocol"]["judged_class"] == "the class that was asked for"
        assert found["protocol"]["scores"] == "classifier"
        assert len(found["tenths"]["tenth"]) == TENTHS
        assert Path("runs/made/studies/semantics/tenths.png").is_file()
        study(["semantics", "made", "--num", "40", "--steps", "3", "--clip", str(clip), "--prompt", "digit {}"])
        again = json.loads(Path("runs/made/studies/semantics/study.json").read_text())
        assert again["protocol"]["prompt"] == "digit {}"
        assert again["protocol"]["unit"] == "100 cos"
        low, high = (found_by_hand(clip, half) for half in (0, 1))
        assert again["table"]["low_half"][0] == pytest.approx(low, abs=1e-3)
        assert again["table"]["high_half"][0] == pytest.approx(high, abs=1e-3)


def found_by_hand(clip: Path, half: int) -> float:
    """Mean score of the class asked for in a half of the energies, seed i having class i mod 10."""
    x, energy = drawn(Path("runs/made/studies/semantics"))
    scores = clip_scorer(clip, [f"digit {number}" for number in range(10)]).scores(torch.from_numpy(x))
    rows = np.flatnonzero((stats.rankdata(energy) > 20) == bool(half))
    return float(np.mean([float(scores[row, row % 10]) for row in rows]))


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_scored_is_one_line(tiny, clip: Path) -> None:
    trained(tiny(**TOY))
    for args, why in (
        ([], "have no labels"),
        (["--clip", str(clip)], "--clip scores pictures"),
        (["--vae", "some"], "--vae makes pictures for --clip"),
    ):
        with pytest.raises(KineticError, match=why):
            study(["semantics", "made", *args])


@pytest.mark.filterwarnings("ignore")
def test_a_clip_that_is_not_there_is_one_line(classes: Path, clip: Path) -> None:
    with inside(classes):
        for args, why in (
            (["--clip", "nowhere"], "the CLIP nowhere does not exist"),
            (["--clip", str(clip), "--prompt", "a photo"], "a prompt has one"),
        ):
            with pytest.raises(KineticError, match=why):
                study(["semantics", "made", *args])


@pytest.mark.filterwarnings("ignore")
def test_latents_are_decoded_for_clip_and_taken_as_they_are_by_all_else(workdir: Path, clip: Path) -> None:
    """Kills: latents shown to CLIP as pictures, a network of pictures that takes other rows along."""
    tiny_vae(workdir / "vae")
    encode([str(PHOTOS), "latents", *ENCODE])
    train(["--config", latent_config([], num_val=0)])
    os.environ.pop("KINETIC_RUN", None)
    trust = ["--num", "24", "--steps", "2", "--accelerator", "cpu"]
    study(["semantics", "run", *trust, "--clip", str(clip)])
    x, _ = drawn(Path("runs/run/studies/semantics"))
    found = json.loads(Path("runs/run/studies/semantics/study.json").read_text())
    names = open_run("run").class_names
    pictures = load_autoencoder("vae").decode(torch.from_numpy(x))
    scores = clip_scorer(clip, prompts_of(names)).scores(pictures)
    means = [float(scores[row, row % 2]) for row in range(24)]
    halves_ = [found["table"][name][0] for name in ("low_half", "high_half")]
    assert float(np.mean(halves_)) == pytest.approx(float(np.mean(means)), abs=2e-3)
    study(["support", "run", *trust, "--features", "pixels", "--features", "inception:none", "--neighbors", "2"])
    assert "squared latent units" in Path("runs/run/studies/support/report.html").read_text()
    table = json.loads(Path("runs/run/studies/support/study.json").read_text())["table"]
    assert "inception" in table["note"][table["features"].index("inception:none")]
    shutil.move("vae", "away")
    with pytest.raises(KineticError, match="these latents are not decoded"):
        study(["semantics", "run", *trust, "--clip", str(clip)])
