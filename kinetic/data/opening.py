"""The training set of a run again, checked against what the run wrote down."""

from pathlib import Path

import torch
from torch import Tensor

from kinetic.build import build
from kinetic.data.base import FlowDataModule
from kinetic.errors import KineticError
from kinetic.images import ImageSet
from kinetic.store.plain import read_text
from kinetic.store.runs import CONFIG, SUBSET
from kinetic.store.settings import SavedConfig
from kinetic.trust import Trust

CACHE_BYTES = 2**31
SUBSET_BYTES = 2**31
HOME = "kinetic.data"


def open_data(run: Path, trust: Trust) -> FlowDataModule:
    """Open the data set that a run was trained on; KineticError if its training subset is another one now.

    Its configuration is a stranger's: it names the classes and opens the sources that `trust` allows, which are files
    that lie here unless others were named.
    """
    settings = SavedConfig.read(run)
    spec, seed = settings.at("data"), settings.at("seed_everything", default=0)
    if spec is None:
        raise KineticError(f"{run / CONFIG} names no training set; name it when the run is imported, with --data")
    if not isinstance(spec, dict) or not isinstance(spec.get("init_args") or {}, dict) or isinstance(seed, bool | str):
        raise KineticError(f"{run / CONFIG} does not describe the data")
    init_args = {"seed": seed, **(spec.get("init_args") or {})}
    data: FlowDataModule = build({**spec, "init_args": init_args}, base=FlowDataModule, home=HOME, trust=trust)
    data.trust = trust
    data.setup()
    check_subset(run, data)
    return data


def check_subset(run: Path, data: FlowDataModule) -> None:
    """Raise KineticError where the training images are others than those that the run wrote down."""
    listed = run / SUBSET
    if listed.is_file() and read_text(listed, most=SUBSET_BYTES).splitlines() != list(data.subset_ids):
        raise KineticError(f"the data set is no longer the one that {run.name} was trained on (see {listed})")


def training_images(data: FlowDataModule) -> ImageSet:
    """What `data.reference()` yields, float32 in [-1, 1]."""
    return ImageSet.of(data.reference, "the training set")


def small(data: FlowDataModule) -> bool:
    """Whether the training images may be kept in memory."""
    return data.num_reference * torch.Size(data.shape).numel() * 4 < CACHE_BYTES


def training_size(run: Path) -> int | None:
    """How many images a run was trained on, as it wrote down; None if it did not."""
    listed = run / SUBSET
    return len(read_text(listed, most=SUBSET_BYTES).splitlines()) if listed.is_file() else None


def labels_of_reference(data: FlowDataModule) -> Tensor:
    """Label of each image that `reference()` yields, int64 [N]."""
    _, pool, indices = data.splits()[0]
    if pool.labels is None or data.num_classes is None:
        raise KineticError(f"labels given, but the images of {data.name} have none; leave them out")
    by_id = {pool.ids[i]: int(pool.labels[i]) for i in indices.tolist()}
    return torch.tensor([by_id[name] for _, _, ids in data.reference() for name in ids])
