"""The options of `sample`, and what they describe: origin, settings, seeds, labels."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kinetic.cli.classes import labels_named
from kinetic.cli.composed_options import SETTINGS, add_composed, check_composed
from kinetic.cli.options import add_devices, add_shaping, add_solver, parsed, typed_parser
from kinetic.errors import KineticError
from kinetic.flow.seeds import LAST, Labels, check_count, seed_range
from kinetic.memorization.views import SPACES, check_space
from kinetic.metrics.extractors import CHOICES, check_name
from kinetic.models.opening import Origin, open_checkpoint, open_empirical, open_run
from kinetic.samples.band import Band
from kinetic.samples.export import FORMATS
from kinetic.trust import Trust

EXAMPLES = """examples:
  sample.py --kts balanced                            64 samples of the newest run, shaped
  sample.py my-run --seeds 0-49999 --format npz       what an FID evaluator reads
  sample.py --kts balanced --index 12                 one of them again, with its energy curve
  sample.py --compare off,balanced,landing --num 512  the same seeds under each setting
  sample.py --hand-over before-onset --from 0.7       an earlier checkpoint from t = 0.7 on
  sample.py --keep-energy 10%:80%                     draws more, keeps those of medium energy
  sample.py --noise linear:1                          along a stochastic path, whose samples are distributed alike
  sample.py --away-from training                      guided away from the training images, at no network cost
  sample.py --empirical                               follow the training set itself, without a network"""


# Options that contradict one another.
APART = (
    ("seeds", "num"),
    ("seeds", "index"),
    ("num", "index"),
    ("compare", "index"),
    ("compare", "kts"),
    ("compare", "alpha"),
    ("compare", "beta"),
    ("compare", "format"),
    ("compare", "keep_energy"),
    ("seeds", "keep_energy"),
    ("keep_energy", "index"),
    ("compare", "hand_over"),
    ("compare", "away_from"),
    ("hand_over", "away_from"),
    ("hand_over", "before"),
    ("empirical", "hand_over"),
    ("empirical", "away_from"),
)


def parse(args: list[str]) -> Any:
    """Read the command line; what cannot be understood or does not go together is a KineticError."""
    options = parsed(parser(), args)
    check_origin(options)
    check_apart(options, APART)
    options.formats = formats(options.format)
    options.band = None if options.keep_energy is None else Band.parse(options.keep_energy)
    if options.index is not None and not 0 <= options.index <= LAST:
        raise KineticError(f"--index is a seed of 0 to {LAST:,}, got {options.index!s:.40}")
    if options.batch_size is not None and options.batch_size < 1:
        raise KineticError(f"--batch-size must be at least 1, got {options.batch_size!s:.40}")
    check_composed(options)
    if options.f_mem_space is not None:
        check_space(options.f_mem_space)
    if options.features not in (None, "none"):
        check_name(options.features)
    return options


def parser() -> Any:
    """Make the parser."""
    made = typed_parser(
        "sample.py", "Draw samples from a trained model, measure their kinetic path energy, and shape them.", EXAMPLES
    )
    add_origin(made.add_argument_group("what to draw from"))
    _which(made.add_argument_group("which samples"))
    add_solver(made)
    made.add_argument("--guidance", type=float, default=1.0, metavar="W", help="classifier-free; 1 is none")
    made.add_argument(
        "--noise",
        type=str,
        metavar="FORM:G",
        help="drive the samples by noise: g(t) is G (constant:G), G (1 - t) (linear:G), or G between two times alone "
        "(churn:G:LOW-HIGH); with --method euler or heun2 (None: the ODE)",
    )
    add_shaping(made)
    add_composed(made.add_argument_group("sampling that does not copy"))
    _where(made.add_argument_group("where to compute and write"))
    return made


def check_origin(options: Any) -> None:
    """Raise KineticError where the options of `add_origin` contradict one another; `run` then says which, if any."""
    if options.run is not None and options.run_option is not None and options.run != options.run_option:
        raise KineticError(f"two runs are named, {options.run!r} and {options.run_option!r}; name one")
    options.run = options.run if options.run_option is None else options.run_option
    check_apart(options, (("empirical", "checkpoint"), ("empirical", "weights"), ("run", "checkpoint")))


def check_apart(options: Any, pairs: Sequence[tuple[str, str]]) -> None:
    """Raise KineticError where both options of a pair are given."""
    for one, other in pairs:
        if getattr(options, one) not in (None, False) and getattr(options, other) not in (None, False):
            names = (f"--{name.replace('_', '-')}" for name in (one, other))
            raise KineticError(f"{' and '.join(names)} do not go together; leave one out")


def add_origin(group: Any) -> None:
    """Add the options that name what is followed, see `origin_of`."""
    group.add_argument("run", nargs="?", metavar="RUN", help="a run, by name or folder (None: the newest)")
    group.add_argument("--run", dest="run_option", metavar="RUN", help=argparse.SUPPRESS)
    group.add_argument("--root", default="runs", metavar="DIR", help="folder of all runs")
    group.add_argument(
        "--checkpoint", metavar="FILE", help="a checkpoint instead of a run's last one, or an exported model"
    )
    group.add_argument("--weights", metavar="ema|raw", help="averaged weights or those as trained (None: ema)")
    group.add_argument("--empirical", action="store_true", help="the closed-form field of the run's training set")
    group.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="a package whose classes, or a source whose data, the run may name",
    )


def _which(group: Any) -> None:
    group.add_argument("--num", type=int, metavar="N", help="how many, with the seeds 0 to N - 1 (None: 64)")
    group.add_argument("--seeds", metavar="A-B", help="which seeds, as 0-49999 or 1,5,9")
    group.add_argument("--labels", metavar="L", help="classes by name or number: cat,dog or 0,3 (None: balanced)")
    group.add_argument(
        "--keep-energy",
        type=str,
        metavar="LO:HI",
        help="draw until N samples have an energy in this band: values, or quantiles with percent signs",
    )
    group.add_argument("--index", type=int, metavar="SEED", help="draw this one sample, with its energy curve")
    group.add_argument("--compare", metavar="A,B", help=f"same seeds under several of {', '.join(SETTINGS)}")
    group.add_argument(
        "--controls",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare also with equal noise, off stopped early (as it is, and divided by t) and earlier checkpoints "
        "(None: if F_mem can be measured)",
    )
    group.add_argument(
        "--cleaner",
        type=str,
        metavar="RUN|FILE",
        help="compare: F_mem also after this network, trained on other images, has denoised samples and images",
    )
    group.add_argument(
        "--features",
        type=str,
        metavar="NAME",
        help=f"compare: features of Fréchet distance, precision and recall: {CHOICES}, or none (None: pca:64)",
    )
    group.add_argument(
        "--f-mem-space",
        type=str,
        metavar="SPACE",
        help=f"compare samples with training images as {SPACES} (None: as the run's validations do)",
    )
    group.add_argument("--measure", action="append", default=[], metavar="CLASS", help="a further number a sample")
    group.add_argument(
        "--copy-score",
        action="store_true",
        help="how little the field's guesses around a sample differ, 8 evaluations each; small is a sign of copying",
    )


def _where(group: Any) -> None:
    group.add_argument("--out", metavar="DIR", help="folder for the results (None: RUN/sampling/SETTING)")
    group.add_argument("--overwrite", action="store_true", help="replace other samples that lie there")
    group.add_argument("--format", metavar="F", help=f"one or several of {', '.join(FORMATS)} (None: png,npz)")
    group.add_argument(
        "--vae",
        type=str,
        metavar="NAME",
        help="decode latents by this autoencoder, a folder or of the hub (None: the run's)",
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="samples at a time, on each device")
    add_devices(group)
    group.add_argument("--precision", default="32", type=str, help="of the network: 32, bf16 or 16")
    group.add_argument("--compile", action="store_true", help="compile the network first: a minute, for long runs")


def formats(text: str | None) -> tuple[str, ...]:
    """Read the file formats."""
    names = tuple(dict.fromkeys((text or "png,npz").split(",")))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise KineticError(f"unknown format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return names


def seeds_of(options: Any) -> list[int]:
    """Read which seeds to draw."""
    if options.seeds is not None:
        return seed_range(options.seeds)
    return list(range(check_count(64 if options.num is None else options.num, "--num")))


def labels_of(options: Any, names: Sequence[str] | None) -> Labels:
    """Read the classes, which are called `names`; "balanced" where none are asked for."""
    if options.labels in (None, "balanced"):
        return "balanced"
    labels = labels_named(options.labels, names)
    return labels[0] if len(labels) == 1 else labels


def trusted(options: Any) -> Trust:
    """What a run or a checkpoint may import and open: what is named on this command line."""
    return Trust().including(tuple(options.trust))


def origin_of(options: Any, *, device: torch.device) -> Origin:
    """Open what the options name; `device` is where the images of an empirical field are kept."""
    where: dict[str, Any] = {"root": Path(options.root), "trust": trusted(options)}
    if options.empirical:
        return open_empirical(options.run, conditional=options.labels is not None, device=device, **where)
    if options.checkpoint is not None:
        return open_checkpoint(options.checkpoint, weights=options.weights, trust=trusted(options))
    return open_run(options.run, weights=options.weights, **where)
