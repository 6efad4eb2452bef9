"""Features of real images kept in the run's folder: found again for the same images and features, and for no others."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinetic.cli.reference import reference
from kinetic.data import Digits
from kinetic.errors import KineticError
from kinetic.metrics.features import features
from kinetic.metrics.real import read_real, write_real
from kinetic.samples import references
from kinetic.samples.references import extractor_of, features_of_split, reference_of
from kinetic.studies.qualities import Judge
from tests.conftest import merged
from tests.test_callbacks_balance import TOY, trained


@pytest.fixture(scope="module")
def data() -> Digits:
    made = Digits(num_train=40, num_val=64, batch_size=8)
    made.setup()
    return made


def same(one, other) -> None:
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.moments.scatter, other.moments.scatter)
    assert (one.halves, one.split, one.extractor_hash) == (other.halves, other.split, other.extractor_hash)


def test_what_is_kept_is_what_would_be_found(data: Digits, tmp_path: Path, monkeypatch) -> None:
    """Kills: features of another split, a file that is written but never read."""
    made = extractor_of(data, "pca:8")
    plain, first = reference_of(data, made), reference_of(data, made, folder=tmp_path)
    assert plain.file is None
    assert not first.found
    held = torch.cat([x for x, _, _ in data.labelled(held_out=True, limit=5000)])
    assert torch.equal(first.real.features, features(held, made))
    training = reference_of(data, made, split="training", folder=tmp_path).real
    monkeypatch.setattr(references, "features", None)  # nothing is computed from here on
    again = reference_of(data, made, folder=tmp_path)
    assert again.found
    same(again.real, first.real)
    same(plain.real, first.real)
    same(Judge.of(data, "pca:8", folder=tmp_path).real, first.real)
    assert torch.equal(features_of_split(data, made, split="training", limit=50, folder=tmp_path), training.features)
    with pytest.raises(TypeError):
        features_of_split(data, made, split="training", limit=39, folder=tmp_path)


def test_another_extractor_split_count_or_set_of_images_has_a_file_of_its_own(data: Digits, tmp_path: Path) -> None:
    """Kills: a hash without the images, without the extractor, a name without the split."""
    other = Digits(num_train=40, num_val=64, batch_size=8, seed=1)
    other.setup()
    pixels = extractor_of(data, "pixels")
    found = [
        reference_of(data, pixels, folder=tmp_path),
        reference_of(data, extractor_of(data, "pca:8"), folder=tmp_path),
        reference_of(data, pixels, split="training", folder=tmp_path),
        reference_of(data, pixels, limit=30, folder=tmp_path),
        reference_of(other, extractor_of(other, "pixels"), limit=30, folder=tmp_path),
    ]
    assert not any(one.found for one in found)
    assert len({one.file for one in found}) == 5
    assert not reference_of(data, replace(pixels, identity={"kind": "of the same name"}), folder=tmp_path).found
    assert reference_of(data, pixels, folder=tmp_path).found  # was not overwritten
    assert [one.real.split for one in found[2:4]] == ["40 training images", "30 held-out images"]


def test_a_file_that_is_damaged_or_of_another_protocol_is_made_again(data: Digits, tmp_path: Path) -> None:
    """Kills: trust in the name alone, a fault that ends a comparison."""
    made = extractor_of(data, "pixels")
    first = reference_of(data, made, folder=tmp_path)
    assert first.file is not None
    first.file.write_bytes(b"PK and no more")
    again = reference_of(data, made, folder=tmp_path)
    assert not again.found
    same(read_real(first.file), first.real)
    write_real(first.file, reference_of(data, extractor_of(data, "pca:4")).real)
    assert not reference_of(data, made, folder=tmp_path).found
    assert reference_of(data, made, folder=tmp_path).found


def test_a_folder_that_cannot_be_written_is_done_without(data: Digits, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = reference_of(data, extractor_of(data, "pixels"), folder=tmp_path / "file")
    assert found.file is None
    assert not found.found


@pytest.mark.filterwarnings("ignore")
def test_command_makes_keeps_and_finds(tiny, capsys) -> None:
    run = trained(tiny(**merged(TOY, {"trainer": {"callbacks": []}})))
    capsys.readouterr()
    reference(["made", "--features", "pixels", "--features", "pca:1", "--features", "classifier"])
    said = capsys.readouterr().out
    assert "2000 held-out images" in said
    assert said.count("Wrote runs/made/reference/") == 2
    assert "classifier: a classifier needs labelled images" in said
    reference(["made", "--features", "pixels", "--split", "held-out"])
    assert "Found" in capsys.readouterr().out
    reference(["made", "--features", "pixels", "--split", "training", "--limit", "20", "--out", "own.npz"])
    assert read_real("own.npz").split == "20 training images"
    assert len(os.listdir(run / "reference")) == 3
    for args, why in (
        (["made", "--features", "classifier"], "needs labelled images"),
        (["made", "--limit", "9"], "needs 10 held-out images at least"),
        (["made", "--features", "eigenfaces"], "unknown features"),
        (["made", "--features", "pixels", "--features", "pca:1", "--out", "one.npz"], "--out is one file"),
        (["nothing"], "nothing"),
    ):
        with pytest.raises(KineticError, match=why):
            reference(args)
