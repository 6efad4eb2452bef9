"""The quality of every validation's samples: Fréchet distance, precision and recall against held-out images."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from kinetic.data import FlowDataModule
from kinetic.errors import KineticError
from kinetic.metrics.features import Extractor, features
from kinetic.metrics.manifolds import overlap
from kinetic.metrics.moments import frechet_distance, moments
from kinetic.metrics.real import LEAST, RealFeatures, check_features
from kinetic.ranks import gather_notes
from kinetic.samples.references import HELD_OUT, extractor_of, reference_of

from .collecting import Monitor, collector_of, validation_table
from .telling import log_numbers, monitoring, reason, say


class QualityCallback(Monitor):
    """Logs quality/fd, quality/precision and quality/recall of the samples of every validation.

    They are compared with held-out images of the trainer's datamodule, in features that are fitted once, at the first
    validation, on its training images. Where that cannot be, one line says so, and training goes on. The first
    validation says which images and features these are. Figures of different numbers of samples do not compare.

    Args:
        features: as `kinetic.metrics.extractors` names them; None for pca:64, or as many components as the data allow.
        images: held-out images to compare with, at most.
    """

    wants = torch.float32

    def __init__(self, *, features: str | None = None, images: int = HELD_OUT) -> None:
        if images < LEAST:
            raise KineticError(f"images must be at least {LEAST}, got {images}")
        self.features, self.images = features, images
        self.numbers: dict[str, float] = {}  # of the last validation
        self._extractor: Extractor | None = None
        self._real: RealFeatures | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the data anew."""
        self._off, self._extractor, self._real = False, None, None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare and log (all processes call this)."""
        if not monitoring(trainer) or self._off:
            return
        table = validation_table(trainer, pl_module, "quality")
        if table is None:
            return
        samples = collector_of(trainer).select(table.seeds[table.finite]) if table.finite.any() else torch.empty(0, 1)
        numbers, trouble = dict[str, float](), None
        if trainer.is_global_zero:
            try:
                numbers = self._measure(trainer, pl_module, samples)
            except Exception as error:
                trouble = reason(error)
        numbers, trouble = gather_notes((numbers, trouble))[0]
        if trouble is not None:
            self._off = True
            say(trainer, f"quality is not measured: {trouble}; training and energies go on")
            return
        self.numbers = numbers
        log_numbers(trainer, pl_module, {f"quality/{name}": value for name, value in numbers.items()})

    def _measure(self, trainer: Trainer, module: LightningModule, samples: torch.Tensor) -> dict[str, float]:
        if self._extractor is None or self._real is None:
            self._extractor, self._real = self._fit(getattr(trainer, "datamodule", None), module.device)
            note = f"{len(samples)} samples against {self._real.split} in features {self._real.extractor}"
            say(trainer, f"quality: {note} ({self._real.extractor_hash}), fd of their halves {self._real.halves:.3g}")
        real = self._real
        found = features(samples, self._extractor)
        check_features(found, "samples")
        near = overlap(found, real.features, real.radii, k=real.k)
        distance = frechet_distance(moments(found), real.moments)
        return {"fd": distance, "precision": near.precision, "recall": near.recall}

    def _fit(self, data: Any, device: torch.device) -> tuple[Extractor, RealFeatures]:
        if not isinstance(data, FlowDataModule):
            raise KineticError("the trainer has no data module of Kinetic, which holds images out")
        made = extractor_of(data, self.features, device=device)
        return made, reference_of(data, made, limit=self.images).real

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the samples go."""
        collector_of(trainer).reset()
