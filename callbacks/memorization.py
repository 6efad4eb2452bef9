"""How many of a validation's samples are copies of training images, and when that began."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.memorization.copies import MemorizationResult, summarize
from kinetic.memorization.keeping import precision_of
from kinetic.memorization.onset import BEFORE, History, Validation, onset_line
from kinetic.memorization.training_set import Keep, Null, Range, TrainingSet
from kinetic.memorization.views import View, check_space, space_of_data, view_of
from kinetic.ranks import gather_notes, gather_rows
from kinetic.samples.copying import signals_of, with_copies
from kinetic.samples.pictures import as_shown
from kinetic.samples.table import SampleTable
from kinetic.store.tables import StepTable

from .collecting import Monitor, collector_of, validation_table
from .decoding import decode_of
from .grids import picture_path, write_gallery
from .telling import alert, attempt, fitting, log_media, log_numbers, monitoring, open_table, reason, say, say_trouble

COLUMNS = ("epoch", "seed", "d1", "d2", "ratio", "copied", "neighbor", "neighbor_id")  # of memorization.parquet


class MemorizationCallback(Monitor):
    """Compares the samples of every validation with the training images, and finds the onset of copying.

    The training images come from the trainer's datamodule: `reference()` yields (images, numbers, names) a chunk at a
    time, `held_out(limit)` the same of real images that were not trained on. Without them one line says so, and
    training goes on. Writes memorization.parquet, galleries/step_*.png, onset.json and checkpoints/before-onset.ckpt
    into the trainer's `default_root_dir`, and memorization/* to its loggers: F_mem, its interval and the null, and for
    each measured column its Spearman correlation with d₁/d₂ (rho_*) and its AUROC for picking out the copies (auroc_*;
    where a small value means a copy, as of drift and response, that of minus the column).

    Several processes share a data module of kinetic: each reads, keeps and searches its part of the training images,
    for the samples of all.

    Args:
        threshold: a sample is a copy where d₁/d₂ is below it, in (0, 1].
        null_samples: held-out images to compare with, None for all.
        stop_at_onset: end training at the onset.
        keep_before_onset: keep the checkpoint of the last validation before the onset.
        gallery: how many of the most-copied samples are drawn.
        media_every: draw and log pictures at every so many validations; 0 never.
        space: samples and training images are compared as they are (null), as latents, as (decoded) pixels, or by
            features such as pca:32; see `kinetic.memorization.views`.
        cache_bytes: keep the training images on the device if they take no more, else read them at every validation.
        precision: of the training images where they are kept: float32, float16 or bfloat16.
        folder: where the training images are kept as numbers, to be read from there by this run and others; null
            decodes them anew wherever they are not in memory.
    """

    wants = torch.float32

    def __init__(
        self,
        *,
        threshold: float = 1 / 3,
        null_samples: int | None = 1000,
        stop_at_onset: bool = False,
        keep_before_onset: bool = True,
        gallery: int = 12,
        media_every: int = 1,
        space: str | None = None,
        cache_bytes: int = 2**30,
        precision: str = "float32",
        folder: str | None = None,
    ) -> None:
        if not 0 < threshold <= 1:
            raise KineticError(f"threshold must lie in (0, 1], got {threshold}; the usual value of d1/d2 is 1/3")
        counts = {"null_samples": null_samples, "gallery": gallery, "media_every": media_every}
        for name, value in (counts | {"cache_bytes": cache_bytes}).items():
            if value is not None and value < 0:
                raise KineticError(f"{name} must not be negative, got {value}")
        self.threshold, self.null_samples, self.stop_at_onset = threshold, null_samples, stop_at_onset
        self.keep_before_onset, self.gallery = keep_before_onset, gallery
        self.media_every, self.cache_bytes, self.space = media_every, cache_bytes, space
        self.keep = Keep(precision, None if folder is None else Path(folder))
        precision_of(precision)
        if space is not None:
            check_space(space)
        self.history, self.validations = History(), 0
        self.result: MemorizationResult | None = None  # of the last validation
        self._file: StepTable | None = None
        self._forget()

    def _forget(self) -> None:
        """Know nothing about the data, as before a run."""
        self._training: TrainingSet | None = None
        self._off = False
        self._seen: Range | None = None

    @property
    def state_key(self) -> str:
        """Different settings, different state."""
        return self._generate_state_key(
            threshold=self.threshold,
            null_samples=self.null_samples,
            gallery=self.gallery,
            media_every=self.media_every,
            **({} if self.space is None else {"space": self.space}),
        )

    def state_dict(self) -> dict[str, Any]:
        """All validations so far; the onset follows from them."""
        return {"history": self.history.state(), "validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the validations so far."""
        self.history.restore(state_dict["history"])
        self.validations = int(state_dict["validations"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the data anew."""
        self._forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the table, without the rows of steps that are trained again, and set onset.json right."""
        if trainer.global_step == 0:
            self.history, self.validations = History(), 0
        if trainer.is_global_zero:
            attempt(trainer, "reading the distances so far", lambda: self._open(trainer))

    def _open(self, trainer: Trainer) -> None:
        folder = Path(trainer.default_root_dir)
        known = bool(self.history.validations)
        self._file = open_table(trainer, folder / "memorization.parquet", columns=COLUMNS, expected=known)
        if (folder / "onset.json").is_file():
            self.history.write(folder, kept=self.keep_before_onset)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the range of the first images."""
        if self._seen is None and isinstance(batch, dict) and isinstance(batch.get("x"), Tensor) and len(batch["x"]):
            low, high = batch["x"].detach().aminmax()
            self._seen = float(low), float(high)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        super().on_validation_start(trainer, pl_module)
        self.result = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, gather, log and write."""
        if not monitoring(trainer) or self._off:
            return
        table = validation_table(trainer, pl_module, "memorization")
        if table is None:
            return
        training = self._training or self._prepare(trainer, pl_module)
        rows = None if training is None else self._measure(trainer, training)
        if training is None or rows is None:
            return
        result = self.result = summarize(rows)
        table = with_copies(table, rows.numpy())
        log_numbers(trainer, pl_module, figures(result, table, training.null))
        if fitting(trainer):
            self._record(trainer, training, result, table)

    def _prepare(self, trainer: Trainer, module: LightningModule) -> TrainingSet | None:
        """Index the training images and find the null (all processes call this); one line where that cannot be."""
        data, view, trouble = getattr(trainer, "datamodule", None), None, None
        try:
            view = self._view(trainer, data, module.device)
        except Exception as error:
            trouble = reason(error)
        if self._give_up(trainer, trouble):
            return None
        training = None
        try:
            training = TrainingSet.of(
                data,
                view=view,
                threshold=self.threshold,
                null_samples=self.null_samples,
                device=module.device,
                cache_bytes=self.cache_bytes,
                seen=self._seen,
                keep=self.keep,
                shared=True,
            )
        except Exception as error:
            trouble = reason(error)
        if self._give_up(trainer, trouble) or training is None:
            return None
        self._training, self.history.null = training, training.null
        if training.null is None:
            say(trainer, "memorization: no held-out images to judge F_mem by, so its onset is not looked for")
        return training

    def _view(self, trainer: Trainer, data: Any, device: torch.device) -> View:
        """What is compared, by a decoder where latents are to be decoded for it."""
        decoding = self.space not in (None, space_of_data(data))
        decode = decode_of(trainer) if decoding else None
        return view_of(self.space, data, decode=decode, device=device)

    def _give_up(self, trainer: Trainer, trouble: str | None) -> bool:
        """Go on without memorisation if any process has trouble."""
        troubles = [theirs for theirs in gather_notes(trouble) if theirs]
        if troubles:
            self._off, self._training = True, None
            say(trainer, f"memorization is not measured: {troubles[0]}; training and energies go on")
        return bool(troubles)

    def _measure(self, trainer: Trainer, training: TrainingSet) -> Tensor | None:
        """Compare this process's samples with the training images, and gather the rows of all, [N, 7] float64."""
        rows, trouble = torch.empty(0, 7, dtype=torch.float64), None
        pictures = collector_of(trainer).pictures
        try:
            if pictures or training.index.shared:
                samples = torch.stack(list(pictures.values())) if pictures else torch.empty(0)
                rows = training.measure(samples, torch.tensor(list(pictures), dtype=torch.int64))
        except Exception as error:
            trouble = reason(error)
        if self._give_up(trainer, trouble):
            return None
        return torch.cat(gather_rows(rows))

    def _record(self, trainer: Trainer, training: TrainingSet, result: MemorizationResult, table: SampleTable) -> None:
        """Write files and pictures, and note whether this is the onset."""
        step, epoch, folder = trainer.global_step, trainer.current_epoch, Path(trainer.default_root_dir)
        earlier = self.history.onset
        self.history.add(Validation(step, epoch, result.f_mem, result.low, result.high))
        attempt(trainer, "writing the distances", lambda: self._write(trainer, training, result))
        if self.media_every and self.validations % self.media_every == 0 and self.gallery:
            self._draw(trainer, training, result, table)
        self.validations += 1
        attempt(trainer, "writing onset.json", lambda: self.history.write(folder, kept=self.keep_before_onset))
        onset = self.history.onset
        if onset is not None and earlier is None:
            line = onset_line(onset, kept=self.keep_before_onset)
            say(trainer, line)
            alert(trainer, "Copying begins", line)
            trainer.should_stop = trainer.should_stop or self.stop_at_onset

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this state as long as there is no onset (all processes save), and let the samples go."""
        collector_of(trainer).reset()
        judged = fitting(trainer) and self.result is not None and self.history.null is not None
        if judged and self.keep_before_onset and self.history.onset is None:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / BEFORE)

    def _write(self, trainer: Trainer, training: TrainingSet, result: MemorizationResult) -> None:
        if self._file is None:
            self._open(trainer)
        numbers = result.column("neighbor").tolist()
        columns = {"epoch": [trainer.current_epoch] * result.total, "seed": result.column("index").numpy()}
        columns |= {name: result.column(name).numpy() for name in ("d1", "d2", "ratio", "copied")}
        names = [training.name(number) for number in numbers]
        assert self._file is not None
        about = {"space": training.view.space, "threshold": f"{training.threshold:.17g}"}
        self._file.write(trainer.global_step, columns | {"neighbor": numbers, "neighbor_id": names}, about=about)
        say_trouble(trainer, self._file)

    def _draw(self, trainer: Trainer, training: TrainingSet, result: MemorizationResult, table: SampleTable) -> None:
        """Draw the most-copied samples beside their nearest training images (all processes call this)."""
        rows = most_copied(result, self.gallery)
        if not len(rows) or len(training.index.shape) != 3:
            return
        samples = collector_of(trainer).select(table.seeds[rows.numpy()])
        path = picture_path(Path(trainer.default_root_dir), "galleries", trainer.global_step)

        numbers, pairs = result.column("neighbor")[rows], None
        if training.index.shared:
            try:
                pairs = training.shown(samples, numbers)
            except Exception as error:  # in all processes
                say(trainer, f"drawing the gallery failed ({reason(error)}); training goes on")
                return

        def draw() -> None:
            own, beside = training.shown(samples, numbers) if pairs is None else pairs
            if training.view.compute is None:
                own, beside = (as_shown(images, decode_of(trainer)) for images in (own, beside))
            _gallery(path, own, beside, result, table, rows)

        if attempt(trainer, "drawing the gallery", draw):
            log_media(trainer, pictures={"memorization/gallery": path}, histograms={})


def _gallery(
    path: Path, own: Tensor, beside: Tensor, result: MemorizationResult, table: SampleTable, rows: Tensor
) -> None:
    """Write samples [n, ...] and training images, both to be shown as they are, with the figures of their rows [n]."""
    write_gallery(
        path,
        own,
        beside,
        seeds=table.seeds[rows.numpy()],
        energy=table.columns["energy"][rows.numpy()],
        ratio=result.column("ratio")[rows].numpy(),
        copied=result.column("copied")[rows].numpy(),
    )


def most_copied(result: MemorizationResult, count: int) -> Tensor:
    """Rows [n] of the `count` finite samples with the smallest d₁/d₂, the smallest first."""
    order = result.column("ratio").nan_to_num(math.inf).argsort(stable=True)
    return order[result.column("finite")[order]][:count]


def figures(result: MemorizationResult, table: SampleTable, null: Null | None) -> dict[str, float]:
    """What is logged of a validation; NaN where it is undefined."""
    numbers = {"f_mem": result.f_mem, "low": result.low, "high": result.high, "mean_d1": result.mean_d1}
    if null is not None:
        numbers |= {"null": null.f_mem, "null_high": null.high}
    for signal in signals_of(table):
        if signal.rho is not None:
            numbers[f"rho_{signal.name}"] = signal.rho
        if signal.auroc is not None:
            numbers[f"auroc_{signal.name}"] = signal.auroc
    return {f"memorization/{name}": value for name, value in numbers.items()}
