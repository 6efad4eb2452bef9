"""Real images as samples are compared with them: features and what follows from them, found once and kept in a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.metrics.features import Extractor
from kinetic.metrics.manifolds import radii
from kinetic.metrics.moments import Moments, frechet_distance, moments
from kinetic.store.arrays import read_npz_as, write_npz
from kinetic.store.plain import parse_json
from kinetic.tensors import generator

LEAST = 10  # images on either side, below which no figure of quality means anything
STATED = ("split", "extractor", "extractor_hash", "resize")


@dataclass(frozen=True, kw_only=True, eq=False)
class RealFeatures:
    """Features of real images and what quality needs of them, and which images and features they are."""

    features: Tensor  # [N, F] float32
    k: int
    radii: Tensor  # [N] float64, squared distance to the k-th neighbour
    moments: Moments
    halves: float  # Fréchet distance of two random halves: what the bias of N / 2 images amounts to
    split: str | None = None
    extractor: str | None = None
    extractor_hash: str | None = None
    resize: str | None = None

    @classmethod
    def of(
        cls,
        features: Tensor,
        *,
        k: int = 3,
        seed: int = 0,
        split: str | None = None,
        extractor: Extractor | None = None,
        device: torch.device | str = "cpu",
    ) -> "RealFeatures":
        """Prepare features [N, F]; `seed` is of the halves, `split` and `extractor` say where they come from.

        Neighbours are searched on `device`, which needs float64; what is kept is on the CPU.
        """
        check_features(features, "real images")
        found = features.detach().float().cpu()
        halves = found[torch.randperm(len(found), generator=generator(seed))].tensor_split(2)
        return cls(
            features=found,
            k=k,
            radii=radii(found.to(device), k=k).cpu(),
            moments=moments(found),
            halves=frechet_distance(moments(halves[0]), moments(halves[1])),
            split=split,
            extractor=None if extractor is None else extractor.name,
            extractor_hash=None if extractor is None else extractor.hash,
            resize=None if extractor is None else extractor.resize,
        )


def check_features(features: Tensor, what: str) -> None:
    """Raise KineticError unless features are finite, [N, F], and enough."""
    if features.ndim != 2 or not features.shape[1]:
        raise KineticError(f"features of {what} should be [N, F], got {list(features.shape)}")
    if len(features) < LEAST:
        raise KineticError(f"quality needs at least {LEAST} {what}, got {len(features)}")
    bad = int((~features.isfinite().all(1)).sum())
    if bad:
        raise KineticError(
            f"{bad} of {len(features)} {what} are not finite; leave them out, and say how many they were"
        )


def write_real(path: Path | str, real: RealFeatures) -> None:
    """Keep prepared features in an npz file, written whole."""
    stated = {name: getattr(real, name) for name in STATED} | {"k": real.k, "halves": real.halves}
    arrays = {
        "features": real.features,
        "radii": real.radii,
        "mean": real.moments.mean,
        "scatter": real.moments.scatter,
    }
    text = np.array(json.dumps(stated))
    write_npz(path, {"stated": text, **{name: value.numpy() for name, value in arrays.items()}})


def read_real(path: Path | str) -> RealFeatures:
    """Read what `write_real` wrote, executing nothing; KineticError if it is damaged or something else."""
    what = {"fault": "holds no features of real images", "advice": "remove it and make it again"}
    return read_npz_as(Path(path), _real, **what)


def _real(arrays: dict[str, Any]) -> RealFeatures:
    """Make features of arrays; whatever their readers raise, and ValueError where they do not go together."""
    stated = parse_json(str(arrays["stated"]), name="its description")
    values = {name: torch.from_numpy(arrays[name]) for name in ("features", "radii", "mean", "scatter")}
    count, size = values["features"].shape
    shapes = {"features": [count, size], "radii": [count], "mean": [size], "scatter": [size, size]}
    for name, value in values.items():
        wanted = torch.float32 if name == "features" else torch.float64
        if list(value.shape) != shapes[name] or value.dtype != wanted or not bool(value.isfinite().all()):
            raise ValueError(f"its {name} are {list(value.shape)} of {value.dtype}, or not finite")
    if not isinstance(stated["k"], int) or not 1 <= stated["k"] < count or not isinstance(stated["halves"], float):
        raise ValueError("its description has no k or no distance of halves")
    if not all(isinstance(stated[name], str | None) for name in STATED):
        raise ValueError("its description is no text")
    return RealFeatures(
        features=values["features"],
        k=stated["k"],
        radii=values["radii"],
        moments=Moments(count, values["mean"], values["scatter"]),
        halves=stated["halves"],
        **{name: stated[name] for name in STATED},
    )
