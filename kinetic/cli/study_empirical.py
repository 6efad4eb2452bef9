"""The command `study empirical`: the closed-form field of the training set against the network."""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from kinetic.cli.options import parsed
from kinetic.cli.study_options import finish, study_parser, subject_of
from kinetic.data.progress import progress
from kinetic.errors import KineticError
from kinetic.flow.field import Field
from kinetic.flow.seeds import check_count
from kinetic.memorization.earlier import kept_checkpoints
from kinetic.metrics.statistics import Estimate
from kinetic.models.opening import Origin, open_checkpoint, open_empirical
from kinetic.plots import field_distance, fields_over_time
from kinetic.plots.style import thin
from kinetic.report.findings import Cell, Findings, Shown, Table, attempt
from kinetic.report.sources import Metrics, Unavailable, read_rows
from kinetic.samples.table import Array
from kinetic.store.arrays import kept
from kinetic.store.runs import LAST
from kinetic.studies.empirical import (
    TIMES,
    Comparison,
    States,
    check_closed_form,
    checked_times,
    exponent,
    states_of_images,
    states_of_samples,
    velocities,
)
from kinetic.studies.subject import KEPT, Subject, evaluations_a_sample
from kinetic.text import duration

OWN, THEIRS, TRAINING, HELD_OUT = "network's samples", "closed form's samples", "training images", "held-out images"
LINES = 6  # checkpoints in a picture


def study_empirical(args: list[str]) -> None:
    """Compare the closed-form field with the network."""
    options = parsed(_parser(), args)
    images = check_count(options.images, "--images")
    times = checked_times(_times(options.times))
    subject = subject_of("empirical", options)
    check_closed_form(subject.origin)
    if not subject.first:
        return
    kept_ones = subject.origin.run is not None and bool(kept_checkpoints(subject.run)) and not options.empirical
    over_training = kept_ones if options.over_training is None else options.over_training
    work = len(subject.seeds) * evaluations_a_sample(subject.sampler)
    took = duration(subject.seconds(subject.origin.field, work))
    print(f"drawing {len(subject.seeds):,} samples by both fields: about {took} by the network", file=sys.stderr)
    finish(subject, findings_of(subject, times, images=images, over_training=over_training))


def _parser() -> Any:
    about = "The closed-form field of the training set against the network: over t, and over training."
    made = study_parser("empirical", about, num=128)
    group = made.add_argument_group("how much to look at")
    group.add_argument("--images", type=int, default=128, metavar="N", help="held-out and training images at most")
    said = f"where fields are compared (None: {','.join(map(str, TIMES))})"
    group.add_argument("--times", type=str, metavar="T,T,...", help=said)
    said = "also at the checkpoints that the run kept (None: where there are some)"
    group.add_argument("--over-training", action=argparse.BooleanOptionalAction, default=None, help=said)
    return made


def _times(text: str | None) -> tuple[float, ...]:
    if text is None:
        return TIMES
    try:
        return tuple(float(part) for part in str(text).split(","))
    except ValueError:
        raise KineticError(f"--times takes numbers with commas between, got {text!r:.80}") from None


class Compared:
    """Both fields at states of each kind; states and velocities of the closed form are kept for other networks."""

    def __init__(self, subject: Subject, times: tuple[float, ...], images: int) -> None:
        self.subject, self.times, self.images = subject, times, images
        conditional = subject.origin.field.num_classes is not None
        known = {"conditional": conditional, "device": subject.device, "trust": subject.trust}
        self.closed = open_empirical(subject.run, **known).field  # type: ignore[arg-type]
        self.how: dict[str, Any] = {"batch_size": subject.batch_size or 64, "device": subject.device}
        self.states: dict[str, States] = {}
        self.best: dict[str, Any] = {}
        self.found: dict[str, Comparison] = {}

    def add(self, name: str) -> Comparison:
        """Compare at states of a kind."""
        self.found[name] = self.at(self.subject.origin, name)
        return self.found[name]

    def at(self, origin: Origin, name: str) -> Comparison:
        """Compare a network at states of a kind, or take what was found before for the same."""
        network = {name: value for name, value in origin.identity.items() if name != "checkpoint"}
        about = self.subject.protocol(network=network, images=self.images, times=list(self.times))
        path = self.subject.folder / KEPT / f"{name.replace(' ', '-')}-{origin.identity.get('step', 'last')}.npz"

        def make() -> dict[str, Array]:
            if name not in self.states:
                states = self.states[name] = self._states(name)
                self.best[name] = velocities(self.closed, states, self.times, **self.how)
            return Comparison.of(self.asked(origin.field, name), self.best[name]).arrays()

        return Comparison(**{one: torch.from_numpy(values) for one, values in kept(path, about, make).items()})

    def asked(self, field: Field, name: str) -> Any:
        """Velocities of a network at states of a kind."""
        more = {"precision": self.subject.precision, "guidance": self.subject.sampler.guidance}
        return velocities(field, self.states[name], self.times, **more, **self.how)  # type: ignore[arg-type]

    def _states(self, name: str) -> States:
        subject, times = self.subject, self.times
        field = self.closed if name == THEIRS else subject.origin.field
        if name in (OWN, THEIRS):
            more = {"labels": subject.labels, "precision": subject.precision}
            sampler = replace(subject.sampler, guidance=1.0) if name == THEIRS else subject.sampler
            how: dict[str, Any] = {"sampler": sampler, "times": times, **more, **self.how}
            return states_of_samples(field, subject.seeds, **how)
        images = {"held_out": name == HELD_OUT, "images": self.images, "times": times}
        return states_of_images(field, subject.data, **images)  # type: ignore[arg-type]


def findings_of(subject: Subject, times: tuple[float, ...], *, images: int, over_training: bool) -> Findings:
    """Compare over t, and over the checkpoints of the run."""
    compared = Compared(subject, times, images)
    rows = [attempt({"of": name}, lambda n=name: _row(compared.add(n), times)) for name in _kinds()]
    found = compared.found
    over_t = [{"of": name, **row} for name, one in found.items() for row in one.rows(times)]
    more = {"over_t": Table(rows=over_t, caption="At each time; distance ‖v - v*‖², v* of the closed form.")}
    powers = {name: (one.network.mean(1), one.closed.mean(1)) for name, one in found.items()}
    said = "Power of the network and of the closed form against the time left."
    pictures = {"powers": Shown(figure=fields_over_time(times, powers), alt=said, caption=said)}
    says = _says(found, times)
    if over_training:
        more["over_training"], lines = _over_training(compared)
        said = "Relative distance of the network to the closed form against the time left, one line a checkpoint."
        pictures["over_training"] = Shown(figure=field_distance(times, lines), alt=said, caption=said)
        says.append(_of_training(more["over_training"]))
    return Findings(
        title=f"The closed-form field of the training set against {subject.origin.name}",
        says=says,
        table=Table(rows=rows, caption="Exponents: k where powers go as (1-t)⁻ᵏ from t = 0.9 on; 95 % intervals."),
        more=more,
        protocol=subject.protocol(images=images, times=list(times), closed_form="of the training images"),
        pictures=pictures,
        space=subject.origin.field.space,
    )


def _kinds() -> tuple[str, ...]:
    return OWN, THEIRS, TRAINING, HELD_OUT


def _row(found: Comparison, times: tuple[float, ...]) -> dict[str, Cell]:
    first, last = f"t={times[0]:g}", f"t={times[-1]:g}"
    relative = found.relative
    return {
        "count": found.network.shape[1],
        f"relative_distance_{first}": float(relative[0]),
        f"relative_distance_{last}": float(relative[-1]),
        f"cosine_{last}": float(found.cosine[-1].mean()),
        "exponent_network": exponent(times, found.network),
        "exponent_closed_form": exponent(times, found.closed),
    }


def _over_training(compared: Compared) -> tuple[Table, dict[str, dict[Any, Any]]]:
    """Distances of every kept checkpoint, at states on the way to images, which are the same for all."""
    run, kinds = compared.subject.run, [name for name in (TRAINING, HELD_OUT) if name in compared.found]
    last = open_checkpoint(run / LAST, trust=compared.subject.trust)
    kept = {**kept_checkpoints(run), int(last.identity["step"]): run / LAST}
    lines: dict[str, dict[Any, Any]] = {name: {} for name in kinds}
    rows: list[dict[str, Cell]] = []
    for step, path in progress("checkpoints", "checkpoints", over=sorted(kept.items())):
        row: dict[str, Cell] = {"step": step, "f_mem": _f_mem(compared.subject, step)}

        def found(step: int = step, path: Any = path) -> Mapping[str, Cell]:
            origin = open_checkpoint(path, trust=compared.subject.trust)
            for name in kinds:
                lines[name][step] = compared.at(origin, name).relative
            return {f"relative_distance_{name.replace(' ', '_')}": float(lines[name][step].mean()) for name in kinds}

        rows.append(attempt(row, found))
    shown = {name: {step: one[step] for step in thin(list(one), LINES)} for name, one in lines.items()}
    caption = (
        "Mean over the times of the relative distance; F_mem of the last validation up to then, where there is one."
    )
    return Table(rows=rows, caption=caption, shares=["f_mem"]), shown


def _f_mem(subject: Subject, step: int) -> Cell:
    """F_mem of the last validation up to a step, None where there is none."""
    try:
        known = Metrics(read_rows(subject.run / "metrics.csv")).series("memorization/f_mem")
    except Unavailable:
        return None
    steps = [at for at in known if at <= step]
    return known[max(steps)] if steps else None


def _says(found: Mapping[str, Comparison], times: tuple[float, ...]) -> list[str]:
    own = found.get(OWN)
    if own is None:
        return ["The fields could not be compared at the network's own states."]
    closed, network = exponent(times, own.closed), exponent(times, own.network)
    said = [_of_spike(closed, network)] if math.isfinite(closed.value) else []
    distance = f"{own.relative[0]:.3g} at t = {times[0]:g}, and {own.relative[-1]:.3g} at t = {times[-1]:g}"
    return [*said, f"At states of the network's samples the relative distance of the fields is {distance}."]


def _of_spike(closed: Estimate, network: Estimate) -> str:
    spikes = closed.low > max(network.high, 0.5)
    lead = "the closed form spikes, and the network does not" if spikes else "the two fields spend alike"
    k = f"{closed.value:.2f} ({closed.low:.2f} to {closed.high:.2f})"
    return (
        f"Near t = 1 {lead}: powers at states of the network's samples go as (1-t)^-k, k = {k} for the closed form "
        f"and {network.value:.2f} for the network; 2 is a state off all training images, 0 is bounded."
    )


def _of_training(table: Table) -> str:
    columns = {name: [v for v in values if v is not None] for name, values in table.columns().items()}
    ends = [(n, v[0], v[-1]) for n, v in columns.items() if n.startswith("relative_distance") and v]
    parts = [f"{n.removeprefix('relative_distance_').replace('_', ' ')} {a:.3g} to {b:.3g}" for n, a, b in ends]
    return f"Over training the relative distance goes from the first checkpoint to the last: {'; '.join(parts)}."
