"""The command `study`: what a model does, measured after the fact."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from kinetic.cli.options import add_solver, naming, parsed, solver_settings, typed_parser
from kinetic.cli.quiet import quiet
from kinetic.cli.sample_options import add_origin, check_origin, origin_of, trusted
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.flow.seeds import check_count
from kinetic.memorization.balance import BINS, NUMBERS, Balance
from kinetic.plots import BalanceCurves, balance_over_time, endpoints_figure, save
from kinetic.samples.balance import table_rows
from kinetic.samples.export import write_columns
from kinetic.store.files import write_text
from kinetic.studies.balance import balance_of
from kinetic.studies.experiment import predictor
from kinetic.studies.plane import Plane, is_plane, plane_of
from kinetic.text import aligned, short
from kinetic.units import energies_of

USAGE = """usage: kinetic study NAME [RUN] ...

  balance   what samples spend against what real images bear out: of a run, a checkpoint, or --empirical

kinetic study NAME --help lists the options."""


def study(args: list[str]) -> None:
    """Run one of the studies: `balance [RUN] [--checkpoint FILE] [--num N] ...`."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if args else 2)
    if args[0] != "balance":
        raise KineticError(f"unknown study {args[0]!r:.80}; choose from balance")
    quiet()
    _balance(parsed(_parser(), args[1:]))


def _parser() -> Any:
    made = typed_parser("kinetic study balance", "Balance what samples spend with what real images bear out.", "")
    add_origin(made.add_argument_group("what to follow"))
    group = made.add_argument_group("how much to look at")
    group.add_argument("--num", type=int, default=256, metavar="N", help="samples, with the seeds 0 to N - 1")
    group.add_argument(
        "--images",
        type=int,
        default=1024,
        metavar="N",
        help="held-out and training images at most; fewer are taken several times",
    )
    group.add_argument("--bins", type=int, default=BINS, metavar="N", help="of the time from 0 to 1")
    group.add_argument("--labels", choices=["balanced"], help="--empirical: the field of each class, all in turn")
    group.add_argument("--batch-size", type=int, default=256, metavar="N", help="samples at a time")
    group.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ...")
    group.add_argument("--out", metavar="DIR", help="folder for the results (None: RUN/balance)")
    add_solver(made)
    return made


def _balance(options: Any) -> None:
    check_origin(options)
    if not 1 <= options.bins <= 100:
        raise KineticError(f"--bins must be 1 to 100, got {options.bins}")
    device = predictor(accelerator=options.accelerator).strategy.root_device
    origin = origin_of(options, device=device)
    if origin.run is None:
        raise KineticError(f"{origin.name} lies in no run, so there are no images to balance it with; name a run")
    with naming(options):
        sampler = Sampler(**solver_settings(options))
    data = open_data(origin.run, trusted(options))
    found = balance_of(
        origin,
        data,
        seeds=range(check_count(options.num, "--num")),
        sampler=sampler,
        images=check_count(options.images, "--images"),
        bins=options.bins,
        batch_size=check_count(options.batch_size, "--batch-size"),
        device=device,
    )
    folder = Path(options.out) if options.out else origin.run / "balance"
    about = {"origin": origin.name, **origin.identity, "num": options.num, "sampler": sampler.to_dict()}
    with energies_of(origin.field.space):
        write_balance(folder, found, about)
    pictures = f"{folder}/balance.png"
    if is_plane(data.shape):
        write_plane(folder, plane_of(origin, data, device=device), about)
        pictures += f" and {folder}/field.png"
    print(f"\nEnergy balance of {origin.name}\n{balance_text(found)}")
    print(f"\nLook:  {pictures}, the numbers in balance.csv and balance.json")


def write_balance(folder: Path, found: Balance, about: dict[str, Any]) -> None:
    """Write balance.csv (a row over all times, one of each class, then those over t), balance.json and balance.png."""
    rows = table_rows(found)
    write_columns(folder / "balance.csv", rows)
    numbers = {name: getattr(found, name) for name in (*NUMBERS[:-1], "since")}
    plain = {n: None if v is None or not math.isfinite(v) else float(v) for n, v in numbers.items()}
    write_text(folder / "balance.json", json.dumps({**plain, "about": about}, indent=2) + "\n")
    names = ("t", "power", "conditional", "held_out", "train", "excess_low", "excess_high")
    curves = BalanceCurves(*(np.asarray(found.profile[name]) for name in names))
    save(balance_over_time({str(about["origin"]): curves}), folder / "balance.png")


def write_plane(folder: Path, found: Plane, about: dict[str, Any]) -> None:
    """Write field.png: where the field of points leads, beside what is best for training and for held-out points."""
    words = {
        "followed": Path(about["origin"]).name,
        "training": "closed form of the training points",
        "held-out": "closed form of held-out points",
    }
    ends = {words[name]: points for name, points in found.endpoints.items()}
    near = {words[name]: found.distances(name) for name in found.endpoints}
    save(endpoints_figure(found.times, found.places, ends, found.training, distances=near), folder / "field.png")


def balance_text(found: Balance) -> str:
    """The numbers as people read them."""
    head = ["", "spent", "A", "held-out", "training", "excess", "95 % interval", "training less held-out"]
    lines = [head, _line("all", found), *(_line(f"class {label}", one) for label, one in found.classes.items())]
    since = "" if found.since is None else f"\nbeyond held-out images from t = {found.since:.2g} on"
    return aligned(lines) + since


def _line(name: str, found: Balance) -> list[str]:
    train = math.nan if found.train is None else found.train
    numbers = map(short, (found.power, found.conditional, found.held_out, train, found.excess))
    gap = f"{short(found.gap)} ({short(found.gap_low)} to {short(found.gap_high)})"
    return [name, *numbers, f"{short(found.excess_low)} to {short(found.excess_high)}", gap]
