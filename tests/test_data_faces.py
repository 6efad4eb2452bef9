"""The faces inside scikit-image, on a small file like theirs; on theirs where it is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from kinetic.data import Faces
from kinetic.data.faces import shipped
from kinetic.errors import KineticError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """120 images of 5 x 5 pixels, each of one level of gray that names it."""
    path = tmp_path / "small.npy"
    np.save(path, np.broadcast_to(np.arange(120.0)[:, None, None] / 255, (120, 5, 5)).copy())
    return path


def levels(chunks) -> list[int]:
    """The level of each image, 0 to 255; all images are of one."""
    return [round((float(image.mean()) + 1) * 127.5) for x, *_ in chunks for image in x]


def test_a_seeded_subset_is_trained_on_and_the_rest_is_held_out(file: Path) -> None:
    """Kills images after the first 100, a subset that ignores the seed, and an overlap."""
    data, again, other = (Faces(path=str(file), num_train=60, seed=seed) for seed in (0, 0, 1))
    trained, held = levels(data.reference()), levels(data.held_out())
    assert data.shape == (1, 5, 5)
    assert data.num_classes is None
    assert (len(trained), len(held)) == (60, 40)
    assert sorted(trained + held) == list(range(100))
    assert levels(again.reference()) == trained != levels(other.reference())
    assert data.subset_ids == [f"faces/{level:03d}" for level in trained]


def test_they_are_resized_as_others_are(file: Path) -> None:
    data = Faces(path=str(file), size=4, num_train=100)
    data.setup()
    assert data.shape == (1, 4, 4)
    assert levels(data.reference()) == list(range(100))
    with pytest.raises(KineticError, match="num_train=101 but faces has 100 images: pass num_train of 100 or fewer"):
        Faces(path=str(file), num_train=101).setup()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 5)), r"its shape is \[5, 5\], not \[N, H, W\]"),
        (np.full((2, 5, 5), 3.0), r"its values lie in \[3, 3\], not in \[0, 1\]"),
        (np.zeros((2, 5, 5), np.uint8), "its numbers are uint8, not floats"),
        (np.full((2, 5, 5), np.nan), "NaN"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "other.npy", array)
    with pytest.raises(KineticError, match=message) as found:
        Faces(path=str(tmp_path / "other.npy")).setup()
    assert len(str(found.value).splitlines()) == 1


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, message in ((tmp_path / "none.npy", "No such file"), (tmp_path, "no regular file")):
        with pytest.raises(KineticError, match=f"cannot read the faces .*{message}"):
            Faces(path=str(path)).setup()
    with pytest.raises(KineticError, match="path=3 must be the name"):
        Faces(path=3)  # type: ignore[arg-type]
    monkeypatch.setattr("kinetic.data.faces.find_spec", lambda name: None)
    with pytest.raises(KineticError, match="not installed; add the extra faces, or pass path=FILE"):
        Faces().setup()


@pytest.mark.skipif(find_spec("skimage") is None, reason="needs scikit-image, the extra `faces`")
def test_the_faces_of_scikit_image() -> None:
    data = Faces(num_train=50, size=24)
    data.setup()
    assert shipped().is_file()
    assert (data.shape, data.num_training, data.num_held_out) == ((1, 24, 24), 50, 50)
    images = torch.cat([x for x, *_ in data.reference()])
    assert images.std() > 0.3
    assert len(images.flatten(1).unique(dim=0)) == 50
    assert "skimage" not in sys.modules
