"""Points in the plane whose distribution one can look at."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from kinetic.data.base import FlowDataModule
from kinetic.data.options import whole
from kinetic.data.pools import ArrayPool, Source
from kinetic.errors import KineticError
from kinetic.tensors import generator

Distribution = Literal["checkerboard", "moons", "eight_gaussians", "spiral"]
CLASSES = {"checkerboard": None, "moons": 2, "eight_gaussians": 8, "spiral": None}


class Toy(FlowDataModule):
    """Seeded points [B, 2] in about [-1, 1]; moons (2) and eight_gaussians (8) have class labels, the others none."""

    def __init__(self, *, distribution: Distribution = "checkerboard", points: int = 10_000, **common: Any) -> None:
        """Draw `points` to train on, and a fifth as many (at least 1,000) to hold out."""
        super().__init__(**common)
        if not isinstance(distribution, str) or distribution not in CLASSES:
            raise KineticError(f"distribution={distribution!r} is unknown: choose one of {', '.join(CLASSES)}")
        whole("points", points, 1, 10**8)
        if self.size is not None or self.grayscale or self.flip:
            raise KineticError(f"{distribution} has points, not pictures: leave out size, grayscale and flip")
        self.name, self.points = distribution, points

    def load(self) -> Source:
        """Draw the points: the training ones from (seed, 0), the held-out ones from (seed, 1)."""
        classes = CLASSES[self.name]
        names = None if classes is None else tuple(str(c) for c in range(classes))
        held_out = max(self.points // 5, 1000)
        return Source(self._pool("train", self.points, 0), self._pool("test", held_out, 1), classes, names)

    def _pool(self, split: str, count: int, key: int) -> ArrayPool:
        x, labels = draw_points(self.name, count, generator(self.seed, key))
        ids = [f"{self.name}/{split}/{i:06d}" for i in range(count)]
        return ArrayPool(x, ids=ids, labels=labels if CLASSES[self.name] else None)


def draw_points(distribution: str, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw points float32 [count, 2] and which component (cell, moon, Gaussian) each is from, int64 [count]."""
    u, v = torch.rand(count, generator=rng), torch.rand(count, generator=rng)
    noise = torch.randn(count, 2, generator=rng)
    if distribution == "checkerboard":  # 8 of the 16 cells of [-1, 1]^2
        which = torch.randint(8, (count,), generator=rng)
        row, column = which // 2, which % 2 * 2 + which // 2 % 2
        return torch.stack([(column + u) / 2 - 1, (row + v) / 2 - 1], 1), which
    if distribution == "moons":  # two half circles of radius 0.6, each reaching into the other
        which = torch.randint(2, (count,), generator=rng)
        sign = 1 - 2 * which
        x = sign * (0.6 * torch.cos(math.pi * u) - 0.3)
        y = sign * (0.6 * torch.sin(math.pi * u) - 0.15)
        return torch.stack([x, y], 1) + 0.04 * noise, which
    if distribution == "eight_gaussians":  # centres on a circle of radius 0.8
        which = torch.randint(8, (count,), generator=rng)
        angle = which * (math.pi / 4)
        return 0.8 * torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * noise, which
    angle = 3 * math.pi * u.sqrt()  # an Archimedean spiral of one and a half turns
    arm = torch.stack([angle.cos(), angle.sin()], 1) * angle.unsqueeze(1) / (3 * math.pi)
    return 0.9 * arm + 0.02 * noise, torch.zeros(count, dtype=torch.int64)
