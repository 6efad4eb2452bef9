"""Open whatever can be followed: the network of a run or of a checkpoint, or a run's training set itself."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from kinetic.advice import command
from kinetic.data.latents import Latents
from kinetic.data.opening import labels_of_reference, open_data, small, training_images
from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.paths import path as affine_path
from kinetic.models.checkpoint import LoadedNetwork, load_network
from kinetic.models.exported import WEIGHTS
from kinetic.models.public import kind_of
from kinetic.store.files import sha256
from kinetic.store.runs import CONFIG, LAST, SUBSET, find_run
from kinetic.store.settings import SavedConfig
from kinetic.trust import STRANGER, Trust

Weights = Literal["ema", "raw"]
DECLARED: dict[str, tuple[type, ...]] = {  # what a checkpoint may declare of its network, see `Field`
    "time": (str,),
    "prediction": (str,),
    "space": (str,),
    "null_label": (bool,),
    "cfg_channels": (int, type(None)),
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Something to draw samples from.

    Attributes:
        field: what is followed.
        run: folder of the run it belongs to, None for a checkpoint that lies in no run.
        home: folder that results go to by default.
        name: for people.
        identity: what the samples depend on, plain types.
        measures: what the run measures beyond the standard, as its configuration names them.
        class_names: of its classes in the order of their numbers, None where they have none.
        null_trained: whether the label that stands for no class was trained, as guidance needs.
        coupling: of noise and images in training.
        latents: of which autoencoder the samples are, where they are latents and it is known.
    """

    field: Field
    run: Path | None
    home: Path
    name: str
    identity: dict[str, Any]
    measures: tuple[str | dict[str, Any], ...] = ()
    class_names: tuple[str, ...] | None = None
    null_trained: bool = True
    coupling: str = "independent"
    latents: Latents | None = None


def open_run(
    run: Path | str | None = None,
    *,
    root: Path | str = "runs",
    weights: str | None = None,
    trust: Trust = STRANGER,
) -> Origin:
    """Open the last checkpoint of a run: by name, by path, or (None) the newest.

    `weights` is "ema", "raw", or None for the averaged ones where there are any; `trust` says what classes are built.
    """
    folder = find_run(Path(root), None if run is None else str(run))
    checkpoint = folder / LAST
    if not checkpoint.is_file():
        raise KineticError(f"run {folder.name} has no checkpoint yet; train it until it has written one")
    return open_checkpoint(checkpoint, weights=weights, trust=trust)


def open_checkpoint(checkpoint: Path | str, *, weights: str | None = None, trust: Trust = STRANGER) -> Origin:
    """Open a checkpoint that train.py wrote; its run is the folder it lies in, if that is one. Or an exported model."""
    checkpoint = Path(checkpoint)
    if weights not in (None, "ema", "raw"):
        raise KineticError(f"unknown weights {weights!r}; choose from ema, raw")
    loaded = _loaded(checkpoint, weights, trust)
    run = run_of(checkpoint)
    shown = run if run is not None and checkpoint.resolve() == run / LAST else checkpoint
    return Origin(
        field=_field(loaded, f"checkpoint {checkpoint}"),
        run=run,
        home=(run or (checkpoint if checkpoint.is_dir() else checkpoint.parent)) / "sampling",
        name=f"{os.path.relpath(shown)} {_about(loaded)}",
        identity={
            "checkpoint": os.path.relpath(checkpoint),
            "sha256": sha256(checkpoint / WEIGHTS if checkpoint.is_dir() else checkpoint),
            "weights": loaded.weights,
            "step": loaded.step,
        },
        measures=_measures(loaded, f"checkpoint {checkpoint}"),
        class_names=loaded.class_names,
        coupling=str(loaded.hparams.get("coupling", "independent")),
        null_trained=loaded.hparams.get("label_dropout") != 0,
        latents=_latents(loaded, run),
    )


def _latents(loaded: LoadedNetwork, run: Path | None) -> Latents | None:
    """Of which autoencoder the samples are, by the checkpoint or, of an imported one, by its run."""
    if loaded.latents is not None or run is None:
        return loaded.latents
    found = SavedConfig.read(run).at("latents")
    return None if found is None else Latents.of(found, str(run / CONFIG))


def _loaded(checkpoint: Path, weights: str | None, trust: Trust) -> LoadedNetwork:
    """The network of a checkpoint of ours; of a public one, the command that makes a run of it."""
    try:
        return load_network(checkpoint, weights=weights, trust=trust)  # type: ignore[arg-type]
    except KineticError:
        kind = kind_of(checkpoint)
        if kind is None:
            raise
    advice = f"make a run of it with {command('import')} {checkpoint}"
    raise KineticError(f"checkpoint {checkpoint} is a public one, of {kind}: {advice}")


def _field(loaded: LoadedNetwork, source: str) -> Field:
    """What is followed: the network, and what its checkpoint declares of it under `field`."""
    declared = loaded.hparams.get("field") or {}
    if not isinstance(declared, dict) or set(declared) - set(DECLARED):
        raise KineticError(f"{source} is damaged: field should have some of {', '.join(DECLARED)}, is {declared!r:.80}")
    for name, value in declared.items():
        if type(value) not in DECLARED[name]:
            raise KineticError(f"{source} is damaged: field.{name} is {value!r:.80}")
    path = affine_path(str(loaded.hparams.get("path", "linear")))
    field = replace(Field.of(loaded.net, shape=loaded.sample_shape), path=path)
    return replace(_in_space(field, loaded.latents), **declared)


def _in_space(field: Field, latents: Latents | None) -> Field:
    """A field that says that it makes latents, where it does."""
    return field if latents is None else replace(field, space="latents")


def _about(loaded: LoadedNetwork) -> str:
    """The step of a checkpoint, and which weights were taken; of an imported one what it says of both."""
    imported = loaded.hparams.get("imported")
    kind = "averaged" if loaded.weights == "ema" else "raw"
    if not isinstance(imported, dict):
        return f"at step {loaded.step:,} ({kind} weights)"
    said = f"{kind} weights" if imported.get("states_weights") is True else "weights as they came"
    step = f"at step {loaded.step:,} " if loaded.step else ""
    return f"{step}(imported from {imported.get('kind')!s:.40}, {said})"


def run_of(checkpoint: Path) -> Path | None:
    """Folder of the run that a checkpoint lies in; None where it lies in no run."""
    folder = checkpoint.resolve().parent.parent
    return folder if (folder / CONFIG).is_file() else None


def _measures(loaded: LoadedNetwork, source: str) -> tuple[str | dict[str, Any], ...]:
    samples = loaded.hparams.get("samples")
    found = (samples.get("measures") or ()) if isinstance(samples, dict) else ()
    if not isinstance(found, list | tuple) or not all(isinstance(one, str | dict) for one in found):
        raise KineticError(f"{source} is damaged: samples.measures should be a list of classes, and is {found!r:.80}")
    return tuple(found)


def open_empirical(
    run: Path | str | None = None,
    *,
    root: Path | str = "runs",
    conditional: bool = False,
    device: torch.device | str = "cpu",
    trust: Trust = STRANGER,
) -> Origin:
    """Open the closed-form field of a run's training set, `conditional` on its labels; small sets lie on `device`."""
    folder = find_run(Path(root), None if run is None else str(run))
    data = open_data(folder, trust)
    labels = labels_of_reference(data) if conditional else None
    classes = data.num_classes if conditional else None
    images = training_images(data)
    net = EmpiricalVelocity(images.whole().to(device) if small(data) else images, labels, num_classes=classes)
    return Origin(
        field=_in_space(Field.of(net, shape=tuple(data.shape)), data.latents),
        latents=data.latents,
        run=folder,
        home=folder / "sampling",
        name=f"the {data.num_reference:,} training images of {os.path.relpath(folder)} (empirical flow matching)",
        class_names=data.class_names if conditional else None,
        identity={"empirical": True, "data": data.name, "subset": sha256(folder / SUBSET)},
    )
