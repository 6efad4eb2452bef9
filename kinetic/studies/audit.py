"""Audit a network: which of its samples are suspected copies, how sure that is, and whom its losses give away.

Without the training data, what the network (and an earlier checkpoint) says about its own samples is all that is read.
With it, the suspicion is held against the true neighbours, and a copy score can be fitted for audits of other runs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kinetic.data import FlowDataModule
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.flow.field import Field
from kinetic.flow.sampling import Sampler
from kinetic.memorization.copy_score import Array, CopyScore, plain_score, signals_of
from kinetic.memorization.detectors import Posterior, posterior
from kinetic.memorization.membership import Membership
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.detection import Detection, detection, mean_estimate
from kinetic.metrics.statistics import Estimate
from kinetic.models.opening import Origin
from kinetic.samples.drawing import Plan
from kinetic.samples.table import SampleTable
from kinetic.studies.experiment import Batch, Take, collect
from kinetic.studies.setting import Experiment, Setting

SHOWN = 24  # samples in a picture
NAME = "samples"  # of the only setting


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found.

    Attributes:
        table: of the samples; with the training set, what was found of their neighbours too.
        signals: by name, [N].
        score: large for suspected copies [N]; `name` is what it is.
        probability: that each is a copy [N], None without a fitted score.
        f_mem: estimated without the training set, by the fitted score; None without.
        detection: what the score is worth against the true copies; None where those are not known.
        by_signal: the same of every signal alone.
        fitted: a copy score fitted here, for audits of other runs; None where copies are not known or too few.
        membership: what each score of membership inference is worth; empty where no images were given.
        suspects: the most suspicious samples [n, ...], the first the most, and `order` their rows.
    """

    table: SampleTable
    signals: dict[str, Array]
    name: str
    score: Array
    probability: Array | None = None
    f_mem: Estimate | None = None
    detection: Detection | None = None
    by_signal: dict[str, Detection] = field(default_factory=dict)
    fitted: CopyScore | None = None
    membership: dict[str, Detection] = field(default_factory=dict)
    suspects: Tensor
    order: Array


def job_of(origin: Origin, sampler: Sampler, **options: Any) -> Experiment:
    """The samples that are audited, to be drawn by `draw_parts`; options as of `Experiment`."""
    return Experiment(origin=origin, settings={NAME: Setting(sampler=sampler)}, exact=True, **options)


def audit(
    job: Experiment,
    plan: Plan,
    *,
    before: Field | None = None,
    score: CopyScore | None = None,
    training_set: TrainingSet | None = None,
    data: FlowDataModule | None = None,
    images: int = 512,
    device: torch.device | str = "cpu",
) -> Audit:
    """Ask the network, and `before`, an earlier checkpoint, about every sample that was drawn.

    `score` was fitted on another run. The `training_set` tells the true copies, `data` up to so many training and
    held-out `images` for membership inference.
    """
    asked = Asked(job.origin.field, before, device=device)
    with asked.asking(len(job.seeds)) as take:
        files = [_as_file(take)]
        (table,) = collect(job, plan, training_set=training_set, files=files).values()
    signals = asked.signals()
    name, values = plain_score(signals)
    probability = None if score is None else score.probability(signals)
    if score is not None:
        name, values = f"copy score fitted on {score.fitted_on}", score.log_odds(signals)
    order = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")[:SHOWN]
    found = Audit(
        table=table,
        signals=signals,
        name=name,
        score=values,
        probability=probability,
        f_mem=None if probability is None else mean_estimate(probability),
        suspects=torch.cat(asked.images)[torch.from_numpy(order)],
        order=order,
    )
    return _verified(found, job, data, images=images, device=device)


def _verified(
    found: Audit, job: Experiment, data: FlowDataModule | None, *, images: int, device: torch.device | str
) -> Audit:
    """Hold the suspicion against the true copies, and the losses of images against membership."""
    if "copied" in found.table.columns:
        copied = found.table.columns["copied"].astype(bool)
        by_signal = {name: detection(-values, copied) for name, values in found.signals.items()}
        try:
            fitted = CopyScore.fit(found.signals, copied, fitted_on=job.origin.name)
        except KineticError:
            fitted = None
        found = replace(found, detection=detection(found.score, copied), by_signal=by_signal, fitted=fitted)
    if data is None:
        return found
    return replace(found, membership=membership_of(job.origin.field, data, images=images, device=device))


class Asked:
    """What a network, and one from before, say about samples that come in batches."""

    def __init__(self, own: Field, before: Field | None, *, device: torch.device | str) -> None:
        self.fields = [own] if before is None else [own, before]
        for one in self.fields:
            if isinstance(one.net, nn.Module):
                one.net.to(device)
        self.device, self.images = device, list[Tensor]()
        self.found: list[list[Posterior]] = [[] for _ in self.fields]

    @contextmanager
    def asking(self, total: int) -> Iterator[Take]:
        """Take batches of samples, `total` in all, under a progress bar."""
        with progress("asking", "samples", total=total) as bar:

            def take(batch: Batch, images: dict[str, Tensor]) -> None:
                x, table = images[NAME], batch[NAME].table
                self.images.append(x)
                for field_, found in zip(self.fields, self.found, strict=True):
                    labels = torch.from_numpy(table.labels) if field_.num_classes is not None else None
                    found.append(posterior(field_, x.to(self.device), labels=labels))
                bar.update(len(x))

            yield take

    def signals(self) -> dict[str, Array]:
        """Signals of all samples so far."""
        return signals_of(*self.found)


@contextmanager
def _as_file(take: Take) -> Iterator[Take]:
    yield take


def membership_of(
    field_: Field, data: FlowDataModule, *, images: int, device: torch.device | str = "cpu"
) -> dict[str, Detection]:
    """Tell training images from as many held-out ones by the network alone; empty with fewer than 8 of either."""
    count = min(images, data.num_training, data.num_held_out)
    if count < 8:
        return {}
    parts, member = [], []
    for held_out in (False, True):
        for x, _, labels in data.labelled(held_out=held_out, limit=count):
            known = labels if field_.num_classes is not None else None
            parts.append(Membership.of(field_, x.to(device), known))
            member += [not held_out] * len(x)
    scores: Mapping[str, Array] = Membership.join(parts).scores()
    return {name: detection(score, np.array(member)) for name, score in scores.items()}
