"""The options of `sample`: how they are read, and the sampler they describe."""

import argparse
from typing import Any

from kinetic.cli.options import Parser
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler, seed_range
from kinetic.flow.seeds import Labels
from kinetic.flow.shaping import KTS, PRESETS
from kinetic.samples.export import FORMATS

EXAMPLES = """examples:
  sample.py --kts balanced                            64 samples of the newest run, shaped
  sample.py my-run --seeds 0-49999 --format npz       what an FID evaluator reads
  sample.py --kts balanced --index 12                 one of them again, with its energy curve
  sample.py --compare off,balanced,landing --num 512  the same seeds under each setting
  sample.py --empirical                               follow the training set itself, without a network"""


def parse(args: list[str]) -> argparse.Namespace:
    """Read the command line; what cannot be understood or does not go together is a ValueError."""
    options = parser().parse_args(args)
    if options.run is not None and options.run_option is not None and options.run != options.run_option:
        raise KineticError(f"two runs are named, {options.run!r} and {options.run_option!r}; name one")
    options.run = options.run if options.run_option is None else options.run_option
    refuse_together(options)
    options.formats = formats(options.format)
    return options


def refuse_together(options: argparse.Namespace) -> None:
    """Raise ValueError for options that contradict one another."""
    pairs = (
        ("seeds", "num"),
        ("seeds", "index"),
        ("num", "index"),
        ("compare", "index"),
        ("compare", "kts"),
        ("compare", "alpha"),
        ("compare", "beta"),
        ("compare", "format"),
        ("empirical", "checkpoint"),
        ("empirical", "weights"),
        ("run", "checkpoint"),
    )
    for one, other in pairs:
        if getattr(options, one) not in (None, False) and getattr(options, other) not in (None, False):
            raise KineticError(f"--{one} and --{other} do not go together; leave one out")


def parser() -> Parser:
    """Make the parser."""
    made = Parser(
        prog="sample.py",
        description="Draw samples from a trained model, measure their kinetic path energy, and shape them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _what(made.add_argument_group("what to draw from"))
    _which(made.add_argument_group("which samples"))
    _how(made.add_argument_group("how to integrate"))
    _shaping(made.add_argument_group("kinetic trajectory shaping"))
    _where(made.add_argument_group("where to compute and write"))
    return made


def _what(group: Any) -> None:
    group.add_argument("run", nargs="?", metavar="RUN", help="a run, by name or folder (default: the newest)")
    group.add_argument("--run", dest="run_option", metavar="RUN", help=argparse.SUPPRESS)
    group.add_argument("--root", default="runs", metavar="DIR", help="folder of all runs (default: runs)")
    group.add_argument("--checkpoint", metavar="FILE", help="a checkpoint instead of a run's last one")
    group.add_argument("--weights", metavar="ema|raw", help="averaged weights or those as trained (default: ema)")
    group.add_argument("--empirical", action="store_true", help="the closed-form field of the run's training set")
    group.add_argument("--trust", action="append", default=[], metavar="PKG", help="package that classes may be from")


def _which(group: Any) -> None:
    group.add_argument("--num", type=int, metavar="N", help="how many, with the seeds 0 to N - 1 (default: 64)")
    group.add_argument("--seeds", metavar="A-B", help="which seeds, as 0-49999 or 1,5,9")
    group.add_argument("--labels", metavar="L", help="a class, several (0,3,7), or balanced (default)")
    group.add_argument("--index", type=int, metavar="SEED", help="draw this one sample, with its energy curve")
    group.add_argument("--compare", metavar="A,B", help=f"same seeds under several of {', '.join(PRESETS)}")
    group.add_argument(
        "--controls",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare also with off plus equal noise, and off stopped early (default: if F_mem can be measured)",
    )


def _how(group: Any) -> None:
    group.add_argument("--method", default="euler", help="euler, midpoint, heun2, heun3, rk4, dopri5, dopri8, bosh3")
    group.add_argument("--steps", type=int, default=100, metavar="N", help="of a fixed method (default: 100)")
    group.add_argument("--grid", default="uniform", help="uniform, cosine, or times as 0,0.5,1 (default: uniform)")
    group.add_argument("--guidance", type=float, default=1.0, metavar="W", help="classifier-free; 1 is none (default)")
    group.add_argument("--rtol", type=float, default=1e-5, metavar="R", help="of an adaptive method (default: 1e-5)")
    group.add_argument("--atol", type=float, default=1e-5, metavar="A", help="of an adaptive method (default: 1e-5)")


def _shaping(group: Any) -> None:
    group.add_argument("--kts", metavar="NAME", help=f"{', '.join(PRESETS)} (default: off)")
    group.add_argument("--alpha", type=float, metavar="A", help="strength of the launch")
    group.add_argument("--beta", type=float, metavar="B", help="strength of the landing")
    group.add_argument("--tau", type=float, metavar="T", help="where launch turns into landing, in (0, 1)")
    group.add_argument("--k", type=float, metavar="K", help="rate of the exponential forms")
    group.add_argument("--launch-form", metavar="FORM", help="linear, constant or exponential")
    group.add_argument("--landing-form", metavar="FORM", help="linear, constant or exponential")


def _where(group: Any) -> None:
    group.add_argument("--out", metavar="DIR", help="folder for the results (default: RUN/sampling/SETTING)")
    group.add_argument("--overwrite", action="store_true", help="replace other samples that lie there")
    group.add_argument("--format", metavar="F", help=f"one or several of {', '.join(FORMATS)} (default: png,npz)")
    group.add_argument("--batch-size", type=int, metavar="N", help="samples at a time, on each device")
    group.add_argument("--devices", default="1", metavar="N", help="how many devices, or auto (default: 1)")
    group.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ... (default: auto)")
    group.add_argument("--precision", default="32", help="of the network: 32, bf16 or 16 (default: 32)")


def formats(text: str | None) -> tuple[str, ...]:
    """Read the file formats."""
    names = tuple(dict.fromkeys((text or "png,npz").split(",")))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise KineticError(f"unknown format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return names


def seeds_of(options: argparse.Namespace) -> list[int]:
    """Read which seeds to draw."""
    if options.seeds is not None:
        return seed_range(options.seeds)
    num = 64 if options.num is None else options.num
    if num < 1:
        raise KineticError(f"--num must be at least 1, got {num}")
    return list(range(num))


def labels_of(options: argparse.Namespace) -> Labels:
    """Read the classes; "balanced" where none are named."""
    if options.labels in (None, "balanced"):
        return "balanced"
    parts = [part.strip() for part in options.labels.split(",")]
    if not all(part.removeprefix("-").isdecimal() for part in parts):
        raise KineticError(f"cannot read labels {options.labels!r}; write a class, several such as 0,3,7, or balanced")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def sampler_of(options: argparse.Namespace, preset: str) -> Sampler:
    """Build the sampler for one preset of shaping with whatever overrides it."""
    kts = KTS.preset(
        preset,
        alpha=options.alpha,
        beta=options.beta,
        tau=options.tau,
        k=options.k,
        launch=options.launch_form,
        landing=options.landing_form,
    )
    return Sampler(
        method=options.method,
        steps=options.steps,
        grid=grid_of(options.grid),
        guidance=options.guidance,
        kts=kts,
        rtol=options.rtol,
        atol=options.atol,
    )


def grid_of(text: str) -> str | tuple[float, ...]:
    """Read a grid: its name, or times separated by commas."""
    if "," not in text:
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise KineticError(f"cannot read the grid {text!r}; write uniform, cosine, or times such as 0,0.5,1") from None


def presets_of(options: argparse.Namespace) -> list[str]:
    """Read the settings to compare, `off` first, which the others are measured from."""
    names = [name.strip() for name in options.compare.split(",")]
    for name in names:
        KTS.preset(name)
    if len(set(names)) < len(names):
        raise KineticError(f"--compare {options.compare} names a setting twice")
    return ["off", *(name for name in names if name != "off")]
