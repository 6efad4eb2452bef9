"""The command `reference`: what a run's real images are in features, found once and kept in its folder."""

import os
from pathlib import Path
from typing import Any

from kinetic.cli.options import add_devices, devices_of, parsed, typed_parser
from kinetic.cli.quiet import quiet
from kinetic.cli.sample_options import trusted
from kinetic.data.opening import open_data
from kinetic.data.progress import progress
from kinetic.errors import KineticError, first_line
from kinetic.flow.seeds import check_count
from kinetic.metrics.extractors import CHOICES, check_name
from kinetic.metrics.features import Extractor
from kinetic.metrics.real import write_real
from kinetic.samples.references import (
    FOLDER,
    HELD_OUT,
    Reference,
    Split,
    default_features,
    extractor_of,
    reference_of,
)
from kinetic.store.runs import find_run
from kinetic.studies.experiment import predictor
from kinetic.text import aligned, short

EXAMPLES = """examples:
  kinetic reference RUN                                  what sample --compare and the studies read
  kinetic reference RUN --features inception:FILE --limit 50000 --split training --out cifar10.npz"""


def reference(args: list[str]) -> None:
    """Make and keep features and moments of real images: `[RUN] [--features NAME ...] [--split S] [--limit N]`."""
    quiet()
    options = parsed(_parser(), args)
    limit = check_count(options.limit, "--limit")
    for name in options.features:
        check_name(name)
    if options.out is not None and len(options.features) > 1:
        raise KineticError("--out is one file, and several --features were named; name one of them")
    run = find_run(Path(options.root), options.run)
    trust = trusted(options)
    device = predictor(
        accelerator=options.accelerator, devices=devices_of(options.devices), callbacks=()
    ).strategy.root_device
    data = open_data(run, trust)
    rows = [["features", "real images", "FD of halves", "extractor", "resize"]]
    files, faults = [], []
    for name in progress("reference", "features", over=options.features or [default_features(data)]):
        try:
            made = extractor_of(data, name, device=device, trust=trust)
            found = reference_of(data, made, split=options.split, limit=limit, folder=run / FOLDER)
        except (KineticError, RuntimeError) as error:  # a network may take images of another size alone
            faults.append(f"{name}: {first_line(error)}")
            continue
        rows.append(_row(made, found))
        files.append(_place(found, options.out, run))
    if len(rows) == 1:
        raise KineticError("; ".join(faults))
    print(aligned(rows))
    print("\n".join([*files, *faults]))


def _row(made: Extractor, found: Reference) -> list[str]:
    real = found.real
    return [made.name, str(real.split), short(real.halves, 3), str(real.extractor_hash), str(real.resize)]


def _place(found: Reference, out: str | None, run: Path) -> str:
    """Write a copy where one was asked for; says where the features are."""
    if out is not None:
        write_real(out, found.real)
        return f"Wrote {out}"
    if found.file is None:
        raise KineticError(f"{run / FOLDER} cannot be written to; name a file with --out")
    return f"{'Found' if found.found else 'Wrote'} {os.path.relpath(found.file)}"


def _parser() -> Any:
    made = typed_parser("kinetic reference", "Keep features and moments of a run's real images.", EXAMPLES)
    made.add_argument("run", nargs="?", metavar="RUN", help="a run, by name or folder (None: the newest)")
    made.add_argument("--root", default="runs", metavar="DIR", help="folder of all runs")
    made.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="NAME",
        help=f"features, any number of times: {CHOICES} (None: pca:64)",
    )
    made.add_argument("--split", type=Split, default="held-out", help="which real images")
    made.add_argument("--limit", type=int, default=HELD_OUT, metavar="N", help="real images at most")
    made.add_argument("--out", metavar="FILE", help=f"a file for the features (None: one in RUN/{FOLDER})")
    made.add_argument(
        "--trust", action="append", default=[], metavar="NAME", help="a package or a source that the run may name"
    )
    add_devices(made)
    return made
