"""The command `train`: a configuration becomes a run folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn

import kinetic.callbacks
import kinetic.data
import kinetic.nn
from kinetic.callbacks.checkpoints import Checkpoints
from kinetic.callbacks.progress import RunProgress
from kinetic.callbacks.stopping import StopCleanly
from kinetic.cli.quiet import quiet
from kinetic.data import FlowDataModule
from kinetic.data.fit import check_fit
from kinetic.errors import KineticError, refusing
from kinetic.models.checkpoint import trained_steps
from kinetic.store.files import write_text
from kinetic.store.runs import CONFIG, LAST, find_run, new_run, point_latest
from kinetic.training.checkpoint_io import SafeCheckpointIO
from kinetic.training.dry_run import dry_run
from kinetic.training.loggers import MetricsCSV, QuietWandb, WandbMode, is_rank_zero, tensorboard_logger, wandb_logger
from kinetic.training.module import FlowMatching

FOLDER = "KINETIC_RUN"  # how rank 0 tells the processes it starts where the run lives


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
        tensorboard: log to TensorBoard as well (needs kinetic-flow[tensorboard]).
    """

    name: str | None = None
    root: str = "runs"
    checkpoint_every: int = 1000
    keep_every: int | None = None
    wandb: WandbMode = "auto"
    project: str = "kinetic"
    tensorboard: bool = False


class TrainCLI(LightningCLI):
    """LightningCLI with the network, its optimiser and schedule, and the run folder as groups of their own."""

    def __init__(self, args: list[str], *, stem: str, resume: Path | None) -> None:
        self.stem, self.resume = stem, resume
        super().__init__(
            FlowMatching,
            FlowDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": -1,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # the data modules deal to ranks themselves
                "enable_model_summary": False,
            },
            parser_kwargs={"exit_on_error": False, "prog": "train.py"},
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups and the few links between them."""
        parser.add_subclass_arguments(nn.Module, "network", instantiate=False, required=True)
        parser.add_subclass_arguments(
            torch.optim.Optimizer, "optimizer", instantiate=False, required=False, skip={"params"}
        )
        parser.add_subclass_arguments(
            torch.optim.lr_scheduler.LRScheduler, "scheduler", instantiate=False, required=False, skip={"optimizer"}
        )
        parser.add_class_arguments(RunSettings, "run")
        for group in ("network", "optimizer", "scheduler"):
            parser.link_arguments(group, f"model.{group}", compute_fn=_plain)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the trainer over a run folder."""
        settings: RunSettings = self.config_init.run
        self.folder = self._choose_folder(settings)
        resume_step = None
        if self.resume is not None:
            resume_step = trained_steps(self.resume)
        config = Namespace(self.config_init.trainer.clone())
        ours: list[Callback] = [
            RunProgress(),
            StopCleanly(),
            Checkpoints(every_n_steps=settings.checkpoint_every, keep_every_n_steps=settings.keep_every),
        ]
        config["callbacks"] = [*(config.get("callbacks") or []), *ours]  # checkpoints last: they hold what others know
        config["logger"] = self._loggers(settings, resume_step)
        config["default_root_dir"] = str(self.folder)
        config["plugins"] = [*(config.get("plugins") or []), SafeCheckpointIO()]
        with refusing("the trainer's options"):
            return self.trainer_class(**config.as_dict())

    def instantiate_classes(self) -> None:
        """Build everything that the configuration names."""
        with refusing("the configuration"):
            super().instantiate_classes()

    def _choose_folder(self, settings: RunSettings) -> Path:
        if self.resume is not None:
            return self.resume.parent.parent
        if not is_rank_zero():  # started by rank 0, or by torchrun; writes nothing to the folder
            return Path(os.environ.get(FOLDER) or Path(settings.root) / (settings.name or self.stem))
        return new_run(Path(settings.root), settings.name, self.stem)

    def _loggers(self, settings: RunSettings, resume_step: int | None) -> list[Logger]:
        loggers: list[Logger] = [MetricsCSV(self.folder, resume_step=resume_step)]
        wandb = wandb_logger(self.folder, project=settings.project, mode=settings.wandb)
        if wandb is not None:
            loggers.append(wandb)
        if settings.tensorboard:
            loggers.append(tensorboard_logger(self.folder))
        return loggers

    def check(self) -> None:
        """Refuse what cannot work before anything is written."""
        if is_rank_zero():
            self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        trainer = self.trainer
        self.datamodule.train_loader(world=trainer.world_size, accumulate=trainer.accumulate_grad_batches)
        check_fit(self.model.net, self.datamodule)

    @rank_zero_only
    def open_folder(self) -> None:
        """Write what the run is: its resolved configuration and the training subset; runs/latest points at it."""
        os.environ[FOLDER] = str(self.folder.resolve())
        for logger in self.trainer.loggers:
            if isinstance(logger, QuietWandb):
                logger.start()
        text = self.parser.dump(self.config, skip_unset=False)
        write_text(self.folder / CONFIG, text)
        write_text(self.folder / "subset.txt", "".join(f"{name}\n" for name in self.datamodule.subset_ids))
        point_latest(self.folder)
        for logger in self.trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))


def train(args: list[str]) -> None:
    """Train from a configuration: `[--config FILE] [--resume [RUN]] [--dry-run] [--key value ...]`."""
    quiet()
    args, resume_spec = _take(args, "--resume")
    dry = "--dry-run" in args
    args = [arg for arg in args if arg != "--dry-run"]
    resume = None
    if resume_spec is not None:
        run = find_run(_root(args), resume_spec)
        resume = run / LAST
        if not resume.is_file():
            raise KineticError(
                f"run {run.name} has no checkpoint to continue from yet; start it again without --resume"
            )
        args = ["--config", str(run / CONFIG), *args]
    elif not any(arg in ("--config", "-c", "--help", "-h") or arg.startswith("--config=") for arg in args):
        args = ["--config", str(shipped("digits")), *args]
    cli = TrainCLI(args, stem=_stem(args), resume=resume)
    cli.check()
    if dry:
        dry_run(cli.model, cli.datamodule, cli.trainer)
        return
    cli.open_folder()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=None if resume is None else str(resume))
    _summary(cli)


def shipped(name: str) -> Path:
    """Path of a shipped configuration: beside the package in a checkout, inside it when installed."""
    package = Path(kinetic.nn.__file__).parent.parent
    places = [package.parent / "configs" / f"{name}.yaml", package / "configs" / f"{name}.yaml"]
    return next((place for place in places if place.is_file()), places[0])


@rank_zero_only
def _summary(cli: TrainCLI) -> None:
    folder = os.path.relpath(cli.folder)
    metrics = cli.trainer.callback_metrics
    loss = f", validation loss {float(metrics['val/loss']):.4f}" if "val/loss" in metrics else ""
    print(f"\nTrained {cli.trainer.global_step} steps{loss}. Everything is in {folder}/")
    if (cli.folder / "report.html").is_file():
        print(f"Look:  {folder}/report.html")
    print("Next:  uv run sample.py --kts balanced")


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value


def _take(args: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove `flag [VALUE]` from `args`; the value is "" where it stands alone, None where it does not stand."""
    for i, arg in enumerate(args):
        if arg.startswith(f"{flag}="):
            return args[:i] + args[i + 1 :], arg.split("=", 1)[1]
        if arg == flag:
            has_value = i + 1 < len(args) and not args[i + 1].startswith("-")
            return args[:i] + args[i + 1 + has_value :], args[i + 1] if has_value else ""
    return args, None


def _root(args: list[str]) -> Path:
    _, root = _take(args, "--run.root")
    return Path(root or RunSettings().root)


def _stem(args: list[str]) -> str:
    for flag in ("--config", "-c"):
        _, config = _take(args, flag)
        if config:
            return Path(config).stem
    return "run"
