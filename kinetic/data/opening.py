"""The training set of a run again, checked against what the run wrote down."""

from pathlib import Path

import torch
import yaml
from torch import Tensor

from kinetic.build import build
from kinetic.data.base import FlowDataModule
from kinetic.errors import KineticError
from kinetic.images import ImageSet
from kinetic.store.runs import CONFIG

CACHE_BYTES = 2**31


def open_data(run: Path, packages: tuple[str, ...]) -> FlowDataModule:
    """Open the data set that a run was trained on; raises ValueError if its training subset is another one now."""
    try:
        config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
        spec = {**config["data"], "init_args": {**(config["data"].get("init_args") or {})}}
        spec["init_args"].setdefault("seed", int(config["seed_everything"]))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise KineticError(f"{run / CONFIG} does not describe the data ({error!r})") from None
    data = build(spec, base=FlowDataModule, packages=packages)
    data.setup()
    listed = run / "subset.txt"
    if listed.is_file() and listed.read_text(encoding="utf-8").splitlines() != list(data.subset_ids):
        raise KineticError(f"the data set is no longer the one that {run.name} was trained on (see {listed.name})")
    return data


def training_images(data: FlowDataModule) -> ImageSet:
    """What `data.reference()` yields, float32 in [-1, 1]."""
    return ImageSet.of(data.reference, "the training set")


def small(data: FlowDataModule) -> bool:
    """Whether the training images may be kept in memory."""
    return data.num_reference * torch.Size(data.shape).numel() * 4 < CACHE_BYTES


def training_size(run: Path) -> int | None:
    """How many images a run was trained on, as it wrote down; None if it did not."""
    listed = run / "subset.txt"
    return len(listed.read_text(encoding="utf-8").splitlines()) if listed.is_file() else None


def labels_of_reference(data: FlowDataModule) -> Tensor:
    """Label of each image that `reference()` yields, int64 [N]."""
    _, pool, indices = data.splits()[0]
    if pool.labels is None or data.num_classes is None:
        raise KineticError(f"labels given, but the images of {data.name} have none; leave them out")
    by_id = {pool.ids[i]: int(pool.labels[i]) for i in indices.tolist()}
    return torch.tensor([by_id[name] for _, _, ids in data.reference() for name in ids])
