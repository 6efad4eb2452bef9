"""Drawing until enough samples lie in a band of energies."""

import math
from dataclasses import dataclass, replace

import numpy as np
from lightning.pytorch import Trainer

from kinetic.errors import KineticError
from kinetic.samples.band import Array, Band
from kinetic.samples.drawing import Plan
from kinetic.samples.folder import read_record
from kinetic.studies.experiment import BATCH, draw_parts
from kinetic.studies.setting import Experiment
from kinetic.text import short

MOST = 50  # samples that are drawn for one that is kept
SPARE = 1.05  # more than the share seen so far lets one expect


@dataclass(frozen=True)
class Kept:
    """What was kept of what was drawn.

    Attributes:
        plan: of the samples that were kept.
        drawn: how many there were to choose from.
        words: the band in values.
    """

    plan: Plan
    drawn: int
    words: str


def draw_kept(job: Experiment, trainer: Trainer, band: Band, *, num: int, overwrite: bool = False) -> Kept:
    """Draw the seeds 0, 1, ... of a job with one setting until `num` samples lie in the band; these are kept.

    Every process calls this. Quantiles are those of all that was drawn. KineticError, with the energies there are,
    where no more than one of 50 lies inside.
    """
    size = math.ceil(num / (band.high - band.low)) if band.quantiles else _begun(job, num, overwrite)
    usual = BATCH.get(trainer.strategy.root_device.type, 256)  # however few samples are wanted
    job = replace(job, batch_size=job.batch_size or usual)
    while True:
        plan = draw_parts(replace(job, seeds=range(size)), trainer, overwrite=overwrite)
        seeds, energies = _energies(plan)
        inside = seeds[band.keeps(energies)]
        if len(inside) >= num:
            return Kept(plan.keeping(inside[:num].tolist()), size, band.words(energies))
        if size >= MOST * num:
            raise _too_few(band, energies, len(inside), num)
        size, overwrite = min(MOST * num, _enough(size, len(inside), num)), False


def _begun(job: Experiment, num: int, overwrite: bool) -> int:
    """How many to draw at first: what lies in the folder already, where that is more."""
    record = None if overwrite else read_record(job.folder)
    return num if record is None else max(num, len(record["seeds"]))


def _enough(size: int, inside: int, num: int) -> int:
    """How many to draw, by the share that lay inside so far."""
    wanted = math.ceil(SPARE * num * size / inside) if inside else 4 * size
    return max(size + 1, min(wanted, 4 * size))


def _energies(plan: Plan) -> tuple[Array, Array]:
    """Seeds and energies [N] of what was drawn."""
    tables = [next(iter(batch.values())).table for batch in plan.parts()]
    return np.concatenate([t.seeds for t in tables]), np.concatenate([t.columns["energy"] for t in tables])


def _too_few(band: Band, energies: Array, inside: int, num: int) -> KineticError:
    known = energies[np.isfinite(energies)]
    have = (
        f"they run from {short(float(known.min()))} to {short(float(known.max()))}" if len(known) else "none is finite"
    )
    return KineticError(
        f"--keep-energy {band.text}: {inside:,} of {len(energies):,} samples have such an energy, {num:,} are wanted; "
        f"{have}, so choose another band or fewer samples"
    )
