import numpy as np
import pytest
import torch
from PIL import Image

from kinetic.data.images import fit_all
from kinetic.data.pixels import from_uint8, grayscale, to_uint8


def test_all_256_values_make_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3).contiguous()
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


def test_ends_and_axes() -> None:
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 1, 3, 2)
    x = from_uint8(image)
    assert x.shape == (1, 2, 1, 3)
    torch.testing.assert_close(x[0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_values_are_rounded_clipped_and_nan_is_mid_gray() -> None:
    x = torch.tensor([-7.0, 7.0, float("inf"), -float("inf"), float("nan"), 0.0, -1 + 1.4 / 127.5]).view(1, 1, 1, 7)
    assert to_uint8(x).flatten().tolist() == [0, 255, 255, 0, 128, 128, 1]


def test_half_precision_images_are_widened_first() -> None:
    assert int(to_uint8(torch.full((1, 1, 1, 1), -0.5, dtype=torch.bfloat16))) == 64


def test_grayscale_is_that_of_pillow() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(colors).convert("L"))
    assert np.array_equal(grayscale(torch.from_numpy(colors)).squeeze(-1).numpy(), expected)


def test_grayscale_refuses_alpha() -> None:
    with pytest.raises(ValueError, match="got 4"):
        grayscale(torch.zeros(1, 2, 2, 4, dtype=torch.uint8))


def test_arrays_are_cropped_in_the_centre_and_resized() -> None:
    wide = torch.zeros(2, 4, 8, 3, dtype=torch.uint8)
    wide[:, :, 2:6] = 200
    assert fit_all(wide, size=2, grayscale=True).tolist() == [[[[200]] * 2] * 2] * 2
