"""The 1,797 handwritten digits that come with scikit-learn: real images with no download."""

from typing import Any

import torch
from sklearn.datasets import load_digits

from kinetic.data.base import FlowDataModule
from kinetic.data.images import fit_all
from kinetic.data.pools import ArrayPool, Source
from kinetic.tensors import generator

HELD_OUT = 500


class Digits(FlowDataModule):
    """Handwritten digits of ten classes, 8 x 8 pixels, one channel; 1,297 to train on and always the same 500 held out.

    An id is `digits/` and the row in scikit-learn's array. Source: UCI optical recognition of handwritten digits.
    """

    name = "digits"

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)

    def load(self) -> Source:
        """Read scikit-learn's arrays; its 17 levels of gray are spread over 0 to 255."""
        bunch = load_digits()
        levels = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
        images = fit_all(levels.unsqueeze(-1), size=self.size, grayscale=False)
        labels = torch.from_numpy(bunch.target).long()
        order = torch.randperm(len(images), generator=generator(1797))

        def pool(rows: torch.Tensor) -> ArrayPool:
            return ArrayPool(images[rows], ids=[f"digits/{i:04d}" for i in rows.tolist()], labels=labels[rows])

        train, test = order[:-HELD_OUT].sort().values, order[-HELD_OUT:].sort().values
        return Source(pool(train), pool(test), num_classes=10, class_names=tuple("0123456789"))
