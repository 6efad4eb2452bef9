"""What `sample` draws from: the network of a run or a checkpoint, or a run's training set itself."""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from kinetic.build import build
from kinetic.checkpoint import load_network
from kinetic.data import FlowDataModule
from kinetic.empirical import EmpiricalVelocity
from kinetic.errors import KineticError
from kinetic.files import sha256
from kinetic.guidance import Network
from kinetic.metrics.memorization import MemorizationResult, memorization
from kinetic.metrics.reference import ReferenceIndex
from kinetic.runs import CONFIG, LAST, find_run

CACHE_BYTES = 2**31


@dataclass(frozen=True)
class Origin:
    """Something to draw samples from.

    Attributes:
        net: called as net(x, t, labels).
        shape: of one sample, without the batch axis.
        num_classes: None where labels play no part.
        home: folder that the results go to by default.
        name: for people.
        identity: what the samples depend on, plain types.
    """

    net: Network
    shape: tuple[int, ...]
    num_classes: int | None
    home: Path
    name: str
    identity: dict[str, Any]


def open_origin(options: argparse.Namespace, run: Path | None, *, device: torch.device) -> Origin:
    """Load what the options name; `device` is where the images of an empirical field are kept."""
    if options.empirical:
        assert run is not None  # --empirical and --checkpoint do not go together
        return _empirical(run, trusted(options), conditional=options.labels is not None, device=device)
    checkpoint = Path(options.checkpoint) if options.checkpoint else None
    if checkpoint is None:
        assert run is not None
        checkpoint = run / LAST
        if not checkpoint.is_file():
            raise KineticError(f"run {run.name} has no checkpoint yet; train it until it has written one")
    if options.weights not in (None, "ema", "raw"):
        raise KineticError(f"unknown weights {options.weights!r}; choose from ema, raw")
    loaded = load_network(checkpoint, weights=options.weights, packages=trusted(options))
    home = run if run is not None else checkpoint.parent
    kind = "averaged" if loaded.weights == "ema" else "raw"
    return Origin(
        net=loaded.net,
        shape=loaded.sample_shape,
        num_classes=getattr(loaded.net, "num_classes", None),
        home=home / "sampling",
        name=f"{os.path.relpath(run or checkpoint)} at step {loaded.step:,} ({kind} weights)",
        identity={
            "checkpoint": os.path.relpath(checkpoint),
            "sha256": sha256(checkpoint),
            "weights": loaded.weights,
            "step": loaded.step,
        },
    )


def run_of(options: argparse.Namespace) -> Path | None:
    """Find the run: named, that of the checkpoint, or the newest; None for a checkpoint that lies in no run."""
    if options.checkpoint is None:
        return find_run(Path(options.root), options.run)
    folder = Path(options.checkpoint).resolve().parent.parent
    return folder if (folder / CONFIG).is_file() else None


def trusted(options: argparse.Namespace) -> tuple[str, ...]:
    """Packages that classes may be imported from."""
    return ("kinetic", *options.trust)


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


class Reference:
    """The training images as pairs (images, ids), read anew in every pass."""

    def __init__(self, data: FlowDataModule) -> None:
        self.data = data

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Start a pass."""
        for images, rows, _ in self.data.reference():
            yield images, rows

    @property
    def small(self) -> bool:
        """Whether the images may be kept in memory."""
        return self.data.num_reference * torch.Size(self.data.shape).numel() * 4 < CACHE_BYTES


def index_of(data: FlowDataModule, device: torch.device) -> ReferenceIndex:
    """Prepare the training images for the search of nearest neighbours on `device`."""
    source = Reference(data)
    return ReferenceIndex.build(source, device=device, cache=source.small)


def copies_among(x: Tensor, reference: ReferenceIndex, seeds: Sequence[int]) -> MemorizationResult:
    """F_mem of samples `x` [N, ...]."""
    return memorization(x.to(reference.device), reference, index=torch.tensor(seeds, device=reference.device))


def training_size(run: Path) -> int | None:
    """How many images a run was trained on, as it wrote down; None if it did not."""
    listed = run / "subset.txt"
    return len(listed.read_text(encoding="utf-8").splitlines()) if listed.is_file() else None


def _empirical(run: Path, packages: tuple[str, ...], *, conditional: bool, device: torch.device) -> Origin:
    data = open_data(run, packages)
    source = Reference(data)
    labels = _labels(data) if conditional else None
    classes = data.num_classes if conditional else None
    if source.small:
        images = torch.cat([images for images, _ in source]).to(device)
        net = EmpiricalVelocity(images, labels, num_classes=classes)
    else:
        net = EmpiricalVelocity(lambda: (images for images, _ in source), labels, num_classes=classes)
    return Origin(
        net=net,
        shape=tuple(data.shape),
        num_classes=classes,
        home=run / "sampling",
        name=f"the {data.num_reference:,} training images of {os.path.relpath(run)} (empirical flow matching)",
        identity={"empirical": True, "data": data.name, "subset": sha256(run / "subset.txt")},
    )


def _labels(data: FlowDataModule) -> Tensor:
    """Label of each image that `reference()` yields, int64 [N]."""
    _, pool, indices = data.splits()[0]
    if pool.labels is None or data.num_classes is None:
        raise KineticError(f"labels given, but the images of {data.name} have none; leave them out")
    by_id = {pool.ids[i]: int(pool.labels[i]) for i in indices.tolist()}
    return torch.tensor([by_id[name] for _, _, ids in data.reference() for name in ids])
