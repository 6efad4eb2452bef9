"""What `sample` draws from: the network of a run or a checkpoint, or a run's training set itself."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinetic.data.opening import labels_of_reference, open_data, small, training_images
from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.guidance import Network
from kinetic.models.checkpoint import load_network
from kinetic.store.files import sha256
from kinetic.store.runs import CONFIG, LAST, find_run


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


def _empirical(run: Path, packages: tuple[str, ...], *, conditional: bool, device: torch.device) -> Origin:
    data = open_data(run, packages)
    labels = labels_of_reference(data) if conditional else None
    classes = data.num_classes if conditional else None
    images = training_images(data)
    return Origin(
        net=EmpiricalVelocity(images.whole().to(device) if small(data) else images, labels, num_classes=classes),
        shape=tuple(data.shape),
        num_classes=classes,
        home=run / "sampling",
        name=f"the {data.num_reference:,} training images of {os.path.relpath(run)} (empirical flow matching)",
        identity={"empirical": True, "data": data.name, "subset": sha256(run / "subset.txt")},
    )
