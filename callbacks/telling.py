"""What callbacks have in common when they tell something: one line for the user, numbers and pictures for loggers."""

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

from kinetic.store.tables import StepTable
from kinetic.training.weights_and_biases import QuietWandb

from .progress import RunProgress


def say(trainer: Trainer, text: str) -> None:
    """Tell the user one line, once over all processes: above the run's progress bar, else as a warning."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    if isinstance(bar, RunProgress):
        bar.print(text)
    else:
        warnings.warn(text, stacklevel=2)


def reason(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def attempt(trainer: Trainer, what: str, call: Callable[[], Any]) -> bool:
    """Do something that training does not depend on, on the first process; a failure is one line. Tell if it worked."""
    if not trainer.is_global_zero:
        return True
    try:
        call()
    except Exception as error:
        say(trainer, f"{what} failed ({reason(error)}); training goes on")
        return False
    return True


def open_table(trainer: Trainer, path: Path, *, columns: Collection[str], expected: bool) -> StepTable:
    """Open a table of the run at the step where it goes on, and say what is wrong with it."""
    table = StepTable(path, resume_step=trainer.global_step, columns=columns, expected=expected)
    say_trouble(trainer, table)
    return table


def say_trouble(trainer: Trainer, table: StepTable) -> None:
    """Say once what is wrong with a table."""
    trouble = table.take_trouble()
    if trouble is not None:
        say(trainer, trouble)


def log_numbers(trainer: Trainer, module: LightningModule, numbers: Mapping[str, float]) -> None:
    """Log finite numbers at the step they belong to; one that is undefined is left out.

    All processes call this with the same numbers. Lightning would count a validation to the step before it.
    """
    defined = {name: float(value) for name, value in numbers.items() if np.isfinite(value)}
    place = {"step": float(trainer.global_step), "epoch": float(trainer.current_epoch)}
    module.log_dict({**defined, **place}, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)


def log_media(
    trainer: Trainer, *, pictures: Mapping[str, Path], histograms: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
) -> None:
    """Give pictures (PNG files) and histograms (values, bin edges) to the loggers that show them."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        name = type(logger).__name__
        attempt(trainer, f"logging media to {name}", lambda at=logger: _show(trainer, at, pictures, histograms))  # type: ignore[misc]


def _show(
    trainer: Trainer,
    logger: Logger,
    pictures: Mapping[str, Path],
    histograms: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
) -> None:
    step = trainer.global_step
    if isinstance(logger, WandbLogger):
        import wandb

        media: dict[str, Any] = {key: wandb.Image(str(path)) for key, path in pictures.items()}
        for key, (values, edges) in histograms.items():
            media[key] = wandb.Histogram(np_histogram=(np.histogram(values, edges)[0], edges))
        if isinstance(logger, QuietWandb):
            logger.log_media(media, step=step)
        else:
            logger.experiment.log({**media, "trainer/global_step": step})
    elif isinstance(logger, TensorBoardLogger):
        from PIL import Image

        for key, path in pictures.items():
            with Image.open(path) as image:
                logger.experiment.add_image(key, np.asarray(image.convert("RGBA")), step, dataformats="HWC")
        for key, (values, edges) in histograms.items():
            logger.experiment.add_histogram(key, values, step, bins=edges)


def alert(trainer: Trainer, title: str, text: str) -> None:
    """Send an alert through Weights & Biases, where the run logs to it."""
    for logger in trainer.loggers:
        if isinstance(logger, QuietWandb):
            logger.alert(title, text)
        elif isinstance(logger, WandbLogger):
            attempt(trainer, "the alert", lambda at=logger: at.experiment.alert(title=title, text=text))  # type: ignore[misc]


def monitoring(trainer: Trainer) -> bool:
    """Whether this validation counts: not the sanity check."""
    return not trainer.sanity_checking


def fitting(trainer: Trainer) -> bool:
    """Whether this validation belongs to a training run, whose folder it writes to."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking
