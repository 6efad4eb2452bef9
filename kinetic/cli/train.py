"""The command `train`: a configuration becomes a run folder."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import kinetic.callbacks
import kinetic.nn  # noqa: F401 (short names of classes are looked up among what is imported)
from kinetic.advice import command
from kinetic.callbacks.artifacts import Artifacts
from kinetic.callbacks.checkpoints import Checkpoints
from kinetic.callbacks.owning import OwnFolder
from kinetic.callbacks.progress import RunProgress
from kinetic.callbacks.stopping import Interrupted, StopCleanly
from kinetic.cli.errors import stop_of
from kinetic.cli.interface import options_of, taken
from kinetic.cli.options import Formatter
from kinetic.cli.parser_faults import fault
from kinetic.cli.partners import watching
from kinetic.cli.quiet import quiet
from kinetic.cli.train_options import (
    RunSettings,
    add_groups,
    add_model,
    check_config,
    check_functions,
    check_seed,
    check_trainer,
    importing,
    take,
    take_all,
    typed_values,
    with_config,
)
from kinetic.data import FlowDataModule
from kinetic.data.opening import check_subset
from kinetic.errors import KineticError, refusing
from kinetic.models.checkpoint import read_checkpoint
from kinetic.models.schema import check_resumable
from kinetic.store.runs import CONFIG, LAST, RunFolder, check_name, find_run
from kinetic.store.settings import SavedConfig
from kinetic.training.checkpoint_io import SafeCheckpointIO
from kinetic.training.dry_run import dry_run
from kinetic.training.lightning import set_root, started_processes
from kinetic.training.loggers import MetricsCSV, is_rank_zero, tensorboard_logger
from kinetic.training.module import FlowMatching
from kinetic.training.rehearsal import rehearse
from kinetic.training.resuming import changes, check_changes
from kinetic.training.times import UNTRAINED
from kinetic.training.wandb_account import check_project
from kinetic.training.weights_and_biases import wandb_logger
from kinetic.trust import OWN, STRANGER, Trust

FOLDER = "KINETIC_RUN"  # how rank 0 tells the processes it starts where the run lives


class TrainCLI(LightningCLI):
    """LightningCLI with the network, its optimiser and schedule, and the run folder as groups of their own.

    It builds everything and writes nothing; `folder` is where the run will lie.
    """

    def __init__(self, args: list[str], *, stem: str, trust: Trust, resume: Path | None = None) -> None:
        self.stem, self.trust, self.resume = stem, trust, resume
        self.checkpoint_io, self.changed = SafeCheckpointIO(), list[str]()
        self.state: dict[str, Any] | None = None  # of the checkpoint that training goes on from
        with importing(trust):
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
                parser_kwargs={
                    "exit_on_error": False,
                    "prog": "train.py",
                    "allow_abbrev": False,
                    "description": "Train a flow-matching model; the options are the keys of a configuration.",
                    "epilog": taken("train"),
                    "formatter_class": Formatter,
                },
                args=args,
                run=False,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data; what is trusted is said on the command line alone, and handed to the model."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        add_model(parser, FlowMatching)
        parser.add_lightning_class_args(FlowDataModule, "data", subclass_mode=True)
        parser.add_instantiator(self._trusting, FlowMatching, subclasses=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups and the few links between them."""
        add_groups(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the configuration; what the parser does not take is one line that names the option."""
        try:
            super().parse_arguments(parser, args)
        except (argparse.ArgumentError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise fault(str(error), args=args, options=options_of(parser, "train"), trust=self.trust) from None
        check_seed(self.config.get("seed_everything"))

    def _trusting(self, kind: type, *args: Any, **kwargs: Any) -> Any:
        return kind(*args, trust=self.trust, **kwargs)

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work or would not be obeyed."""
        self.text = str(self.parser.dump(self.config, skip_unset=False))  # the resolved configuration
        check_functions(self.config, self.trust)
        check_trainer(self.config.trainer)
        if self.config.run.name is not None:
            check_name(self.config.run.name)
        if self.config.run.wandb != "disabled":
            check_project(self.config.run.project)
        if self.resume is not None:
            self._check_resume(self.resume)

    def _check_resume(self, run: Path) -> None:
        """Read the checkpoint, and find which settings are others than those that the run began with."""
        now = yaml.safe_load(self.text)
        self.changed = check_changes(changes(SavedConfig.read(run).values, now))
        if (run / LAST).is_file():
            self.state = read_checkpoint(run / LAST)
            check_resumable(self.state, f"checkpoint {run / LAST}")

    def instantiate_classes(self) -> None:
        """Build everything that the configuration names."""
        with refusing("the configuration"):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the trainer over a run folder."""
        settings: RunSettings = self.config_init.run
        config = Namespace(self.config_init.trainer.clone())
        self.owner = OwnFolder(None, "", lambda: self.datamodule.subset_ids)
        ours: list[Callback] = [
            *([RunProgress()] if config.enable_progress_bar is not False else []),
            StopCleanly(),
            Checkpoints(every_n_steps=settings.checkpoint_every, keep_every_n_steps=settings.keep_every),
            *([Artifacts()] if settings.log_model else []),
        ]
        # the owner first, since others write once it has; checkpoints last, since they hold what others know
        config["callbacks"] = [self.owner, *(config.get("callbacks") or []), *ours]
        config["logger"] = False
        config["plugins"] = [*(config.get("plugins") or []), self.checkpoint_io]
        with refusing("the trainer's options"):
            return self.trainer_class(**config.as_dict())

    def prepare(self) -> None:
        """Open the data and build all that training needs, writing nothing; say what changed in a run that goes on."""
        self.datamodule.trust = self.trust
        if is_rank_zero():
            self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        rehearse(self.model, self.datamodule, self.trainer)
        guided = self.model.num_classes is not None and self.model.sampler.guidance != 1
        if guided and self.model.label_dropout == 0 and is_rank_zero():
            print(f"warning: {UNTRAINED}", file=sys.stderr)
        if self.resume is None:
            return
        check_subset(self.resume, self.datamodule)
        if self.state is None and is_rank_zero():
            print(f"run {self.resume.name} has no checkpoint yet; it starts from the beginning", file=sys.stderr)
        for line in self.changed if is_rank_zero() else ():
            print(f"changed: {line}", file=sys.stderr)


def train(args: list[str]) -> None:
    """Train: `[--config FILE] [--resume [RUN]] [--dry-run] [--trust NAME] [--key value ...]`."""
    quiet()
    args, spec = take(args, "--resume")
    args, trusted = take_all(args, "--trust")
    dry, args = "--dry-run" in args, [arg for arg in args if arg != "--dry-run"]
    if spec is None:
        args, run, trust = with_config(args), None, OWN.including(tuple(trusted))
        cli = TrainCLI(args, stem=_stem(args), trust=trust)
    else:
        run = find_run(Path(take(args, "--run.root")[1] or RunSettings().root), spec)
        if take(args, "--run.name")[1] is not None:
            raise KineticError(f"--run.name does not go with --resume: {run.name} keeps its name; leave it out")
        if SavedConfig.read(run).at("imported") is not None:
            raise KineticError(f"run {run.name} was imported, so training cannot go on from it: sample from it")
        # what a run folder says is a stranger's word, and only what is typed beside it is trusted
        check_config(run / CONFIG)
        trust = STRANGER.including(tuple(trusted)).opening(typed_values(args))
        args = ["--config", str(run / CONFIG), *(with_config(args) if _names_config(args) else args)]
        cli = TrainCLI(args, stem=run.name, trust=trust, resume=run)
    cli.prepare()
    if dry:
        dry_run(cli.model, cli.datamodule, cli.trainer)
        return
    Training(cli, run).go()


class Training:
    """One training in one run folder, from claiming it to letting it go."""

    def __init__(self, cli: TrainCLI, run: Path | None) -> None:
        """Take the folder of a new run, or of the run that goes on; on the first process alone."""
        self.cli, settings = cli, cli.config_init.run
        self.folder: RunFolder | None = None
        if is_rank_zero():
            root = Path(settings.root)
            self.folder = RunFolder.claim(root, settings.name, cli.stem) if run is None else RunFolder.reopen(run)
            os.environ[FOLDER] = str(self.folder.path.resolve())
        # a process that rank 0 or torchrun started writes nothing, and learns the folder later
        self.path = self.folder.path if self.folder else Path(os.environ.get(FOLDER) or settings.root)

    def go(self) -> None:
        """Train, and say how it ended; what fails before the first step of a new run leaves nothing behind."""
        try:
            self._fit()
        except BaseException as error:
            began = self.folder is None or self.folder.begun
            if self.folder is not None:
                self.folder.abandon()
            self._say_how_to_go_on(stop_of(error))
            expected = isinstance(error, KineticError | OSError) or not isinstance(error, Exception)
            if self.cli.state is None or began or expected:
                raise
            reason = " ".join(str(error).split())
            raise KineticError(
                f"training cannot go on from {self.path.name}/{LAST} ({type(error).__name__}: {reason}); use another "
                "checkpoint, or start a new run"
            ) from error
        finally:
            if self.folder is not None:
                self.folder.close()
            os.environ.pop(FOLDER, None)
        _summary(self.cli, self.path)

    def _say_how_to_go_on(self, stop: BaseException | None) -> None:
        """Raise the request to stop that ended this training anew, with what it left; None is none."""
        if stop is None or isinstance(stop, Interrupted):
            return
        kept = (self.path / CONFIG).is_file()
        stop.args = ("stopped; go on with --resume" if kept else "stopped before the first step; nothing is kept",)
        raise stop from None

    def _fit(self) -> None:
        cli, trainer = self.cli, self.cli.trainer
        state, last = cli.state, self.path / LAST
        set_root(trainer, str(self.path))
        cli.owner.folder, cli.owner.config = self.folder, cli.text
        trainer.loggers = self._loggers(None if state is None else state["global_step"])
        if state is not None:
            cli.checkpoint_io.hold(state, last)
            cli.state = {}  # Lightning takes it from there
        with watching(lambda: started_processes(trainer), lambda: trainer.state.status == TrainerStatus.INTERRUPTED):
            trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=None if state is None else str(last))

    def _loggers(self, resume_step: int | None) -> list[Logger]:
        settings: RunSettings = self.cli.config_init.run
        loggers: list[Logger] = [MetricsCSV(self.path, resume_step=resume_step)]
        wandb = wandb_logger(self.path, project=settings.project, mode=settings.wandb, log_model=settings.log_model)
        if wandb is not None:
            wandb.start()
            loggers.append(wandb)
        if settings.tensorboard:
            loggers.append(tensorboard_logger(self.path))
        for logger in loggers:
            logger.log_hyperparams(yaml.safe_load(self.cli.text))
        return loggers


@rank_zero_only
def _summary(cli: TrainCLI, path: Path) -> None:
    folder = os.path.relpath(path)
    metrics = cli.trainer.callback_metrics
    loss = f", validation loss {float(metrics['val/loss']):.4f}" if "val/loss" in metrics else ""
    print(f"\nTrained {cli.trainer.global_step} steps{loss}. Everything is in {folder}/")
    if (path / "report.html").is_file():
        print(f"Look:  {folder}/report.html")
    print(f"Next:  {command('sample')} --kts balanced")


def _names_config(args: list[str]) -> bool:
    return any(arg.partition("=")[0] in ("--config", "-c") for arg in args)


def _stem(args: list[str]) -> str:
    for flag in ("--config", "-c"):
        _, config = take(args, flag)
        if config:
            return Path(config).stem
    return "run"
