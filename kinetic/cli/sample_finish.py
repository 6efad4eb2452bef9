"""The end of `sample`: from the parts that were drawn to files, a report, and a few lines for the terminal."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from kinetic.data import FlowDataModule
from kinetic.models.opening import Origin
from kinetic.report import write_sampling_report
from kinetic.samples.drawing import Plan, Setting
from kinetic.samples.figures import broken, copies, summary, write_files
from kinetic.studies.compare import compare, table

SINGLE = "samples"  # the name of the only setting where nothing is compared


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that is known before the first sample is drawn.

    Attributes:
        options: of the command line.
        origin: what is drawn from.
        data: the training set, if it is at hand and wanted.
        settings: what is drawn under, by name.
        plan: which samples, in which batches.
        folder: where the results go.
        device: of this process.
    """

    options: argparse.Namespace
    origin: Origin
    data: FlowDataModule | None
    settings: dict[str, Setting]
    plan: Plan
    folder: Path
    device: torch.device

    @property
    def comparing(self) -> bool:
        """Whether several settings are compared."""
        return self.options.compare is not None


def finish(work: Work) -> None:
    """Write the files and say what there is."""
    print(f"\n{len(work.plan.seeds):,} samples from {work.origin.name}")
    if work.comparing:
        controls = has_controls(work.options, work.data)
        print(table(compare(work.folder, work.plan, work.data, controls=controls, device=work.device)))
    else:
        _single(work)
    write_sampling_report(work.folder)
    for setting in work.plan.settings:
        _tell_broken(work, setting)
    print(f"Look:  {os.path.relpath(work.folder)}/report.html")
    print(f"Next:  {_next(work)}")


def has_controls(options: argparse.Namespace, data: FlowDataModule | None) -> bool:
    """Whether the controls belong beside a comparison: as told, else where F_mem can be measured."""
    return data is not None if options.controls is None else bool(options.controls)


def _single(work: Work) -> None:
    write_files(
        work.folder,
        work.plan,
        SINGLE,
        formats=work.options.formats,
        kts=work.settings[SINGLE].sampler.kts,
        shape=work.origin.shape,
        data=work.data,
    )
    print(summary(work.plan, SINGLE))
    if work.data is not None:
        print(copies(work.plan, SINGLE, work.data, work.device))


def _tell_broken(work: Work, setting: str) -> None:
    seeds = broken(work.plan, setting)
    if not seeds:
        return
    listed = ", ".join(map(str, seeds[:20])) + (", ..." if len(seeds) > 20 else "")
    name = "" if setting == SINGLE else f" under {setting}"
    count = f"{len(seeds):,} of {len(work.plan.seeds):,} samples{name}"
    print(f"warning: {count} did not stay finite: seeds {listed}", file=sys.stderr)


def _next(work: Work) -> str:
    options = work.options
    source = f" --checkpoint {options.checkpoint}" if options.checkpoint else f" {options.run}" if options.run else ""
    command = f"uv run sample.py{source}{' --empirical' if options.empirical else ''}"
    if work.comparing:
        return f"{command} --kts balanced --num 50000 --format npz"
    if options.kts in (None, "off"):
        return f"{command} --compare off,balanced,landing"
    return f"{command} --kts {options.kts} --index {work.plan.seeds[0]}"
