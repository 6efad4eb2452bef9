"""What Kinetic needs of Lightning beyond its public interface, each in one place and with a test of its own."""

import os
import threading
from subprocess import Popen
from typing import Any

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Trainer

MOST_DEVICES = 1024
PROCESSES_PER_CORE = 4  # without accelerators


def most_devices(accelerator: Any) -> int:
    """How many devices may be asked for: processes where an accelerator, as Lightning names it, is the CPU."""
    on_cpu = accelerator == "cpu" or (accelerator in (None, "auto") and not torch.cuda.is_available())
    return PROCESSES_PER_CORE * (os.cpu_count() or 1) if on_cpu else MOST_DEVICES


def checkpoint_state(trainer: Trainer) -> dict[str, Any]:
    """What a full checkpoint would hold now, without writing it."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def validation_is_next(trainer: Trainer) -> bool:
    """Whether a validation follows the training batch that has just ended."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]


def is_logged_step(trainer: Trainer) -> bool:
    """Whether the optimiser step that is being taken is one at which numbers are logged."""
    every = steps_between_logs(trainer)
    return every > 0 and (trainer.global_step + 1) % every == 0


def steps_between_logs(trainer: Trainer) -> int:
    """Optimiser steps from one at which numbers are logged to the next; 0 where none are."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


def set_root(trainer: Trainer, folder: str) -> None:
    """Set the folder of a run, on a process that learns it from the first one."""
    trainer._default_root_dir = folder  # type: ignore[attr-defined]


def train_metrics(trainer: Trainer) -> tuple[dict[str, float], int] | None:
    """What will be logged of the training batch that has just ended, and at which step; None where nothing will be.

    A checkpoint of this step is written before Lightning logs it; a process killed in between would lose it.
    """
    connector = trainer._logger_connector
    loop = trainer.fit_loop.epoch_loop
    if loop._should_accumulate() or not connector.should_update_logs:
        return None
    assert trainer._results is not None
    found = {name: float(value) for name, value in trainer._results.metrics(True)["log"].items()}
    return ({**found, "epoch": trainer.current_epoch}, loop._batches_that_stepped) if found else None


def go_on_after_epoch(trainer: Trainer) -> None:
    """Have an epoch begin as ever where training goes on from the last step of the one before; on_train_start.

    Lightning counts the epoch before as completed, but then takes the next one for the rest of it: it is not counted as
    begun, and hooks of its start are not called.
    """
    loop = trainer.fit_loop
    if loop.restarted_mid_epoch and loop.epoch_progress.current.completed == loop.epoch_progress.current.ready:
        loop.reset_restart_stage()


def keep_off_signals(trainer: Trainer) -> bool:
    """Keep Lightning from taking SIGTERM over, in setup; whether it does, which it must not where SLURM requeues.

    Its handler broadcasts, in the middle of whatever collective the processes are in, each in another.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return False
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return True


def started_processes(trainer: Trainer) -> "list[Popen[bytes]]":
    """The processes that the trainer has started for the same training.

    Lightning's own observer of them is dismissed: it kills this process without a word.
    """
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []
    return list(getattr(trainer.strategy.launcher, "procs", ()))
