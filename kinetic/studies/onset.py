"""When a recipe generates and when it begins to copy, over training-set sizes and widths of the network."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinetic.errors import KineticError
from kinetic.metrics.scaling import PowerLaw, plateau_step, power_law
from kinetic.models.checkpoint import read_checkpoint
from kinetic.report.folder import Run
from kinetic.samples.references import COMPONENTS
from kinetic.store.runs import LAST
from kinetic.store.settings import SavedConfig
from kinetic.studies.trainings import Training, copies_onset, series

WIDTHS = {"UNet": ("model_channels", "num_head_channels"), "DiT": ("hidden_size",), "MLP": ("width",)}
CALLBACKS = "kinetic.callbacks."
LARGEST = 1024  # numbers of an image whose pixels serve as features


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A training-set size, and a factor on the network's width."""

    size: int
    width: float

    @property
    def name(self) -> str:
        """As folders are called."""
        return f"n={self.size},width={self.width:g}"


def settings_of(sizes: Sequence[int], widths: Sequence[float]) -> list[Setting]:
    """All sizes at the first width, and the largest size at the other widths."""
    first, *others = widths
    return [*(Setting(size=n, width=first) for n in sizes), *(Setting(size=max(sizes), width=w) for w in others)]


def training_of(
    config: SavedConfig,
    setting: Setting,
    folder: Path,
    *,
    steps: int,
    first: int,
    per_decade: float,
    patience: int,
    features: str,
) -> Training:
    """The recipe `config` at a setting; validated at log-spaced steps from `first` on, and stopped after its onset."""
    made = deepcopy(config.values)
    arguments = (made.get("data") or {}).get("init_args") or {}
    if "num_train" not in arguments:
        raise KineticError("the data of this run cannot be limited (no data.init_args.num_train); study another run")
    arguments["num_train"] = setting.size
    _widen(made, setting.width)
    balanced = "BalanceCallback" in str(config.at("trainer", "callbacks"))
    measured = {"space": config.memorization("space"), "threshold": config.memorization("threshold", 1 / 3)}
    quiet = {"media_every": 0, "gallery": 0, "keep_before_onset": False}
    callbacks: list[tuple[str, dict[str, Any]]] = [
        *([("BalanceCallback", {})] if balanced else []),
        ("MemorizationCallback", {**measured, **quiet}),
        ("QualityCallback", {"features": features}),
        ("StopAfterOnset", {"patience": patience}),
        ("LogSpacedValidation", {"first": first, "per_decade": per_decade}),
    ]
    made["trainer"] = {
        **made["trainer"],
        "max_steps": steps,
        "callbacks": [{"class_path": CALLBACKS + name, "init_args": given} for name, given in callbacks],
    }
    made["run"] = {"name": None, "wandb": "disabled", "checkpoint_every": 500, "keep_every": None}
    return Training(folder=folder / setting.name, config=made)


def features_for(shape: Sequence[int], sizes: Sequence[int]) -> str:
    """Features in which all trainings compare: the pixels themselves, or where these are many, components.

    Components are fitted on each training set, so that they are alike, not the same.
    """
    size = math.prod(shape)
    return "pixels" if size <= LARGEST else f"pca:{max(1, min(COMPONENTS, min(sizes) - 1))}"


def seconds_of(config: SavedConfig, settings: Sequence[Setting], *, each: float, steps: int, validations: int) -> float:
    """About how long all trainings take at most one after the other, where a forward pass takes `each` a sample.

    A step is taken for three passes, and a network for as slow as it is wide.
    """
    batch = config.at("data", "init_args", "batch_size", default=128)
    samples = config.at("model", "samples", "num", default=0)
    sampling = validations * samples * config.at("model", "sampler", "steps", default=100)
    numbers = [value if isinstance(value, int) else 0 for value in (batch, sampling)]
    return sum(each * one.width * (3 * steps * numbers[0] + numbers[1]) for one in settings)


def _widen(config: dict[str, Any], factor: float) -> None:
    """Scale the channels of the network in place; heads stay as many as they are."""
    network = config.get("network") or {}
    names = WIDTHS.get(str(network.get("class_path")).split(".")[-1])
    arguments = network.get("init_args") or {}
    if factor == 1:
        return
    if names is None or names[0] not in arguments:
        raise KineticError(f"the width of {network.get('class_path')} cannot be scaled; pass --widths 1")
    for name in names:
        if isinstance(arguments.get(name), int) and arguments[name] > 0:
            arguments[name] = max(1, round(factor * arguments[name]))


@dataclass(frozen=True, kw_only=True)
class Times:
    """What one training showed; a step is None where it did not come.

    Attributes:
        setting: size and width.
        parameters: of the network.
        last: the last validation.
        tau_gen: first validation whose Fréchet distance is at its plateau.
        tau_mem: first validation with more copies than held-out images would make.
        before: the last validation before that.
        tau_energy: onset by energy.
        f_mem: share of copies over steps, and fd: Fréchet distance over steps.
    """

    setting: Setting
    parameters: int
    last: int
    tau_gen: int | None
    tau_mem: int | None
    before: int | None
    tau_energy: int | None
    f_mem: Mapping[int, float]
    fd: Mapping[int, float]


def times_of(training: Training, setting: Setting) -> Times:
    """Read what a training left; KineticError where it counted no copies."""
    f_mem, fd = (series(training.folder, name) for name in ("memorization/f_mem", "quality/fd"))
    if not f_mem:
        raise KineticError("no validation counted copies")
    tau, by_energy = copies_onset(training.folder), Run(training.folder).energy_onset
    state = read_checkpoint(training.folder / LAST)["state_dict"]
    return Times(
        setting=setting,
        parameters=sum(value.numel() for name, value in state.items() if name.startswith("net.")),
        last=max(f_mem),
        tau_gen=plateau_step(fd),
        tau_mem=tau,
        before=None if tau is None else max((step for step in f_mem if step < tau), default=0),
        tau_energy=int(by_energy) if math.isfinite(by_energy) else None,
        f_mem=f_mem,
        fd=fd,
    )


def law_of(found: Sequence[Times], name: str, *, width: float) -> PowerLaw | None:
    """Fit `tau_gen` or `tau_mem` over sizes at one width; trainings without it are left out.

    Either is only known to lie between two validations, which its interval covers.
    """
    rows = [one for one in found if one.setting.width == width and getattr(one, name) is not None]
    taus = [getattr(one, name) for one in rows]
    since = [max((step for step in one.f_mem if step < tau), default=1) for one, tau in zip(rows, taus, strict=True)]
    return power_law([one.setting.size for one in rows], taus, since)
