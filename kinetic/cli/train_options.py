"""The options of `train`: a configuration file and what is typed over it, checked before anything is built."""

import datetime
import inspect
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace, set_config_read_mode, set_parsing_settings
from jsonargparse._common import parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

import kinetic.nn
from kinetic.cli.options import bounded_values
from kinetic.errors import KineticError
from kinetic.store.plain import parse_yaml, read_yaml
from kinetic.training.lightning import most_devices
from kinetic.training.wandb_account import WandbMode
from kinetic.trust import Trust


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where a run is written and how it is logged.

    Attributes:
        name: of the run folder; None means the configuration's name, date and time.
        root: folder of all runs.
        checkpoint_every: steps between two writes of last.ckpt.
        keep_every: steps between two checkpoints that are kept for good; None keeps none.
        wandb: "auto" logs online where there is an account and a network, else offline.
        project: of Weights & Biases.
        log_model: give W&B the checkpoints and the report as artifacts when training ends.
        tensorboard: log to TensorBoard as well (needs kinetic-flow[tensorboard]).
    """

    name: str | None = None
    root: str = "runs"
    checkpoint_every: int = 1000
    keep_every: int | None = None
    wandb: WandbMode = "auto"
    project: str = "kinetic"
    log_model: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if not self.root.strip():
            raise KineticError(f"--run.root {self.root!r} is no folder: pass one, such as runs")
        for name, value in (("checkpoint_every", self.checkpoint_every), ("keep_every", self.keep_every)):
            if value is not None and value < 1:
                raise KineticError(f"--run.{name} must be at least 1, got {value}")


@contextmanager
def importing(trust: Trust) -> Iterator[None]:
    """Let the parser import what is trusted, and nothing else, on behalf of a configuration."""
    allowed = ["kinetic", "torch.optim", *trust.packages]
    bad = next((name for name in allowed if not all(part.isidentifier() for part in name.split("."))), None)
    if bad is not None:
        raise KineticError(f"--trust takes the name of a package, or a source of data, got {bad!r}")
    before = dict(parsing_settings)  # of the whole process, and the public setter only ever adds to them
    set_config_read_mode(urls_enabled=False, fsspec_enabled=False)
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    try:
        with bounded_values("the configuration"):
            yield
    finally:
        parsing_settings.update(before)


def check_functions(values: Any, trust: Trust, at: str = "") -> None:
    """Refuse a plain function that a configuration names, unless it is of a package that was named with --trust."""
    if isinstance(values, Namespace):
        values = vars(values)
    if isinstance(values, dict):
        for key, value in values.items():
            check_functions(value, trust, f"{at}.{key}" if at else str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            check_functions(value, trust, at)
    elif inspect.isroutine(values) or isinstance(values, partial):
        path = f"{getattr(values, '__module__', '?')}.{getattr(values, '__qualname__', type(values).__name__)}"
        typed = Trust(packages=tuple(name for name in trust.packages if name not in ("torch", "lightning")))
        if not typed.allows_class(path, "kinetic"):
            raise KineticError(f"{at} is the function {path}, which a configuration may not name; leave it out")


def take(args: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove `flag [VALUE]` from `args`; the value is "" where it stands alone, None where it does not stand."""
    for i, arg in enumerate(args):
        if arg.startswith(f"{flag}="):
            return args[:i] + args[i + 1 :], arg.split("=", 1)[1]
        if arg == flag:
            has_value = i + 1 < len(args) and not args[i + 1].startswith("-")
            return args[:i] + args[i + 1 + has_value :], args[i + 1] if has_value else ""
    return args, None


def take_all(args: list[str], flag: str) -> tuple[list[str], list[str]]:
    """Remove every `flag VALUE` from `args`."""
    found: list[str] = []
    while True:
        args, value = take(args, flag)
        if value is None:
            return args, found
        if not value:
            raise KineticError(f"{flag} needs a value")
        found.append(value)


def typed_values(args: list[str]) -> tuple[str, ...]:
    """Every value on a command line, those of lists one by one."""
    found: list[str] = []
    for arg in args:
        value = arg.split("=", 1)[1] if arg.startswith("--") and "=" in arg else arg
        if value.startswith("["):
            with suppress(KineticError):
                listed = parse_yaml(value, name="a list")
                found += [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
        found.append(value)
    return tuple(found)


def shipped(name: str) -> Path:
    """Path of a shipped configuration: beside the package in a checkout, inside it when installed."""
    package = Path(kinetic.nn.__file__).parent.parent
    places = [package.parent / "configs" / f"{name}.yaml", package / "configs" / f"{name}.yaml"]
    return next((place for place in places if place.is_file()), places[0])


def with_config(args: list[str]) -> list[str]:
    """Name the default configuration where none is named, and find shipped ones by name (`--config toy2d`)."""
    if any(arg in ("--help", "-h") for arg in args):
        return args
    found = False
    args = list(args)
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag not in ("--config", "-c"):
            continue
        found, place = True, i if equals else i + 1
        if not equals and place >= len(args):
            raise KineticError("--config needs a file, or the name of a shipped configuration")
        named = _config_file(value if equals else args[place])
        args[place] = f"{flag}={named}" if equals else str(named)
    return args if found else ["--config", str(shipped("digits")), *args]


def _config_file(text: str) -> Path:
    path = Path(text)
    if path.is_file():
        check_config(path)
        return path
    name = path.name.removesuffix(".yaml")
    if text in (name, f"{name}.yaml", f"configs/{name}.yaml") and shipped(name).is_file():
        return shipped(name)
    names = sorted(file.stem for file in shipped("digits").parent.glob("*.yaml"))
    raise KineticError(f"--config {text!r:.120} is no file and no shipped configuration; those are {', '.join(names)}")


def check_config(path: Path) -> None:
    """Refuse a configuration file that is no YAML of bounded size, or has other groups than those there are."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise KineticError(f"{path} is no configuration: it holds a {type(values).__name__}, not groups of options")
    for group, inside in values.items():
        if group not in GROUPS:
            raise KineticError(f"{path} has the unknown group {group!r:.80}; the groups are {', '.join(GROUPS)}")
        if group != "seed_everything" and not (inside is None or isinstance(inside, dict)):
            raise KineticError(f"{path}: {group} should be options with values, and is {inside!r:.80}")
        named = inside.get("class_path") if isinstance(inside, dict) else None
        if named is not None and not isinstance(named, str):
            raise KineticError(f"{path}: {group}.class_path should name a class, and is {named!r:.80}")


GROUPS = ("seed_everything", "run", "network", "optimizer", "scheduler", "model", "data", "trainer")


def check_seed(seed: Any) -> None:
    """Refuse a seed that numpy does not take."""
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        raise KineticError(f"--seed_everything must be 0 to {2**32 - 1:,}, got {seed!s:.40}")


def check_trainer(options: Any) -> None:
    """Refuse options of the trainer that cannot work, or that Kinetic would not obey."""
    for name, default, reason in REFUSED:
        if options.get(name) not in (None, default):
            raise KineticError(f"--trainer.{name} {options.get(name)} is not obeyed: {reason}; leave it out")
    for name, least, most, none in RANGES:
        value = options.get(name)
        if value is None or value == none:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            more = f", or {none}" if none is not None else ""
            upto = "" if most == math.inf else f" to {most:,}"
            raise KineticError(f"--trainer.{name} must be {least:,}{upto or ' or more'}{more}, got {value}")
    for name in ("limit_train_batches", "limit_val_batches", "val_check_interval"):
        value = options.get(name)
        if isinstance(value, bool) or (isinstance(value, float) and not 0 <= value <= 1):
            raise KineticError(f"--trainer.{name} is a number of batches, or a fraction in [0, 1], got {value}")
    interval = options.get("val_check_interval")
    if interval is not None and not isinstance(interval, str | dict | datetime.timedelta) and interval <= 0:
        raise KineticError(f"--trainer.val_check_interval must be greater than 0, got {interval}")
    time, profiler = options.get("max_time"), options.get("profiler")
    if isinstance(time, str) and not re.fullmatch(r"\d+(:\d+){3}", time.strip()):
        raise KineticError(f"--trainer.max_time is written as days:hours:minutes:seconds, got {time!r:.80}")
    if isinstance(profiler, str) and profiler not in PROFILERS:
        raise KineticError(f"--trainer.profiler takes one of {', '.join(PROFILERS)}, got {profiler!r:.80}")
    _check_devices(options.get("devices"), options.get("accelerator"))
    _check_strategy(options.get("strategy"))


# Options that a run has no use for: name, the value that says nothing, and what holds instead.
REFUSED = (
    ("logger", True, "metrics.csv is always written, and --run.wandb and --run.tensorboard say what else is"),
    ("default_root_dir", None, "--run.root and --run.name say where a run lies"),
    ("enable_checkpointing", True, "a run writes its checkpoints, --run.checkpoint_every says how often"),
    ("overfit_batches", 0.0, "--data.init_args.num_train says how few images to train on"),
    ("barebones", False, "a run measures, logs and saves"),
    ("fast_dev_run", False, "--dry-run builds everything and tells the cost, --trainer.max_steps 2 tries a run"),
)
SPLITTING = ("fsdp", "deepspeed", "modelparallel", "model_parallel")  # how names of such strategies begin
PROFILERS = ("simple", "advanced", "pytorch", "xla")
# name, least, most, and the value that means "no limit"
RANGES: tuple[tuple[str, float, float, Any], ...] = (
    ("max_steps", 1, 10**12, -1),
    ("min_steps", 0, 10**12, None),
    ("max_epochs", 1, 10**12, -1),
    ("min_epochs", 0, 10**12, None),
    ("log_every_n_steps", 0, 10**12, None),
    ("check_val_every_n_epoch", 1, 10**12, None),
    ("num_sanity_val_steps", 0, 10**12, -1),
    ("accumulate_grad_batches", 1, 10**6, None),
    ("gradient_clip_val", 0, math.inf, None),
    ("num_nodes", 1, 10**5, None),
    ("reload_dataloaders_every_n_epochs", 0, 10**12, None),
    ("limit_train_batches", 0, 10**12, None),
    ("limit_val_batches", 0, 10**12, None),
)


def _check_devices(devices: Any, accelerator: Any) -> None:
    most = most_devices(accelerator)
    if isinstance(devices, str) and devices != "auto" and not re.fullmatch(r"-?\d{1,9}|\d+(,\d+)+", devices):
        raise KineticError(f"--trainer.devices takes a number, a list such as 0,1, or auto, got {devices[:80]!r}")
    wanted = int(devices) if isinstance(devices, str) and re.fullmatch(r"-?\d{1,9}", devices) else devices
    if isinstance(wanted, bool) or (isinstance(wanted, int) and not (1 <= wanted <= most or wanted == -1)):
        raise KineticError(f"--trainer.devices must be 1 to {most:,} here, or auto, got {devices}")


def _check_strategy(strategy: Any) -> None:
    """Refuse to split the weights over processes.

    The averaged weights are copied before they would be split, and a forward pass of split weights is a collective,
    while processes may have different numbers of samples to draw.
    """
    named = strategy if isinstance(strategy, str | None) else strategy.get("class_path")
    if isinstance(named, str) and named.rpartition(".")[2].lower().startswith(SPLITTING):
        raise KineticError(
            f"--trainer.strategy {named:.80} splits the weights over processes, but averaging, sampling and checkpoints"
            " need all of them in each; use ddp, and where memory is short smaller batches by"
            " --trainer.accumulate_grad_batches"
        )


def add_model(parser: LightningArgumentParser, model: type) -> None:
    """Add the options of a training module; what is trusted is none of them."""
    parser.add_class_arguments(model, "model", fail_untyped=False, sub_configs=True, skip={"trust"})


TITLES = {  # of the groups, which are called after torch's and Lightning's own docstrings otherwise
    "trainer": "Lightning's Trainer",
    "model": "Training objective, averaged weights and validation",
    "data": "Data set",
    "network": "Network",
    "optimizer": "Optimiser",
    "scheduler": "Schedule of the learning rate",
    "run": "Run folder and loggers",
}


def add_groups(parser: LightningArgumentParser) -> None:
    """Add the groups beside trainer, model and data, and the few links between them."""
    parser.add_subclass_arguments(nn.Module, "network", instantiate=False, required=True)
    parser.add_subclass_arguments(
        torch.optim.Optimizer, "optimizer", instantiate=False, required=False, skip={"params"}
    )
    parser.add_subclass_arguments(
        torch.optim.lr_scheduler.LRScheduler, "scheduler", instantiate=False, required=False, skip={"optimizer"}
    )
    parser.add_class_arguments(RunSettings, "run")
    for group in ("network", "optimizer", "scheduler"):
        parser.link_arguments(group, f"model.{group}", compute_fn=plain)
    parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
    parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
    groups = parser.groups or {}
    for name, title in TITLES.items():
        groups[name].title = title


def plain(value: Any) -> Any:
    """A part of a configuration as plain types."""
    return value.as_dict() if isinstance(value, Namespace) else value
