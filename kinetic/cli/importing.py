"""The command `import`: a checkpoint that another project published becomes a run."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from kinetic.advice import command
from kinetic.cli.import_data import DATA, Data, open_named
from kinetic.cli.latent_options import as_told
from kinetic.cli.options import Parser
from kinetic.cli.quiet import quiet
from kinetic.data.latents import Latents
from kinetic.errors import KineticError
from kinetic.models.checkpoint import write_checkpoint
from kinetic.models.importing import Imported, imported
from kinetic.models.latents import SCALES
from kinetic.models.public import KINDS, UNETS
from kinetic.store.runs import LAST, RunFolder, check_name
from kinetic.text import short

EXAMPLES = """examples:
  kinetic import cifar10_weights_step_400000.pt --data cifar10   torchcfm's, compared with CIFAR-10
  kinetic import SiT-XL-2-256x256.pt --vae sd-vae-ft-ema         latents of 4 x 32 x 32, a thousand classes
  kinetic import last.pt --like repa                             a file whose keys do not say what it is

The file is read without executing anything in it. What its weights do not show is by the recipe, and is said."""


def import_file(args: list[str]) -> None:
    """Make a run of a public checkpoint: `FILE [--like KIND] [--data SPEC] ...`; --help lists the options."""
    quiet()
    options = _parser().parse_args(args)
    path = Path(options.file)
    if options.name is not None:
        check_name(options.name, option="--name")
    names = ("like", "size", "heads", "head_channels", "classes")
    sizes = {name: getattr(options, name) for name in names}
    found = imported(path, **sizes, space=None if options.vae is None else "latents")
    latents = _latents(options, found)
    data = None if options.data is None else _data(options, found)
    folder = RunFolder.claim(Path(options.root), options.name, path.stem, options="--")
    try:
        folder.begin(_config(found, latents, data), None if data is None else data.module.subset_ids)
        _write(found, data, folder.path)
        folder.step()
    except BaseException:
        folder.abandon()
        raise
    finally:
        folder.close()
    if folder.trouble is not None:
        print(f"warning: {folder.trouble}", file=sys.stderr)
    print(_summary(options, found, data, folder.path))


def _write(found: Imported, data: Data | None, run: Path) -> None:
    """Write the checkpoint, with the names that the data has for the classes of the network."""
    names = None if data is None or data.module.num_classes != found.classes else data.module.class_names
    own = {**found.checkpoint["kinetic"], "class_names": None if names is None else list(names)}
    write_checkpoint({**found.checkpoint, "kinetic": own}, run / LAST)


def _latents(options: Any, found: Imported) -> Latents | None:
    """How latents relate to images, as far as it is known; None where samples are pixels."""
    if options.vae is None and (options.vae_scale is not None or options.latent_stats is not None):
        raise KineticError("--vae-scale and --latent-stats say what the latents of --vae are; pass it as well")
    if options.vae is None:
        return None
    latents = Latents(vae=options.vae, scale=SCALES.get(found.kind, 1.0))
    return as_told(latents, options, found.shape[0])


def _data(options: Any, found: Imported) -> Data:
    """The training set that was named, at the size and with the channels of the network."""
    pictures = options.vae is None and found.shape[0] in (1, 3)
    flip = False if options.flip is None and found.kind not in UNETS else options.flip
    data = open_named(options.data, root=options.data_root, shape=found.shape, pictures=pictures, flip=flip)
    theirs = data.module.num_classes
    if found.classes is not None and theirs not in (None, found.classes):
        fix = "name data of the same classes, or a class with the argument classes: false"
        raise KineticError(f"--data has {theirs:,} classes, but the network knows {found.classes:,}: {fix}")
    return data


def _config(found: Imported, latents: Latents | None, data: Data | None) -> str:
    """The run's config.yaml."""
    settings: dict[str, Any] = {
        "imported": found.origin,
        "seed_everything": 0,
        "network": found.network,
        "model": {"path": found.path, "field": found.declared},
    }
    settings |= {} if latents is None else {"latents": latents.to_dict()}
    settings |= {} if data is None else {"data": data.config}
    return yaml.safe_dump(settings, sort_keys=False)


def _summary(options: Any, found: Imported, data: Data | None, run: Path) -> str:
    """What was made of the file, what was assumed, and what to type next."""
    which = "averaged weights" if found.origin["states_weights"] else "weights as they came"
    network = found.network["class_path"].rpartition(".")[2]
    shape = " x ".join(map(str, found.shape))
    lines = [
        f"Imported {options.file} ({found.kind}): {network} of {short(found.parameters / 1e6)} M parameters, {which}, "
        f"samples of {shape}.",
        *(f"  {note}" for note in (*found.notes, *_declared(found))),
        *([] if data is None else [f"  {len(data.module.subset_ids):,} training images of {options.data}{data.note}"]),
        f"Everything is in {os.path.relpath(run)}/",
        f"Next:  {command('sample')} {_named(options, run)} --kts balanced",
    ]
    return "\n".join(lines)


def _named(options: Any, run: Path) -> str:
    """How the run is named on the command line."""
    return run.name if options.root == "runs" else os.path.relpath(run)


def _declared(found: Imported) -> list[str]:
    """What of the file's conventions is kept in the run, in words."""
    words = {
        "time": "time runs from data to noise there, and is turned here",
        "prediction": f"predicts {found.declared.get('prediction')}, which is turned into a velocity",
        "cfg_channels": f"guidance acts on the first {found.declared.get('cfg_channels')} channels",
    }
    path = [] if found.path == "linear" else [f"trained on the path {found.path}"]
    return [text for name, text in words.items() if name in found.declared] + path


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="kinetic import",
        description="Make a run of a checkpoint that another project published, to sample from and to measure.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the checkpoint")
    parser.add_argument("--like", metavar="KIND", help=f"{', '.join(KINDS)} (default: found by its keys)")
    parser.add_argument("--name", help="of the run (default: of the file, with date and time)")
    parser.add_argument("--root", default="runs", metavar="DIR", help="folder of all runs (default runs)")
    sizes = parser.add_argument_group("what weights may not show")
    sizes.add_argument("--size", type=int, metavar="N", help="images of N x N pixels, of a UNet (default 32)")
    sizes.add_argument("--heads", type=int, metavar="N", help="attention heads (default: by width or recipe)")
    sizes.add_argument("--head-channels", type=int, metavar="N", help="channels of one head, of a UNet")
    sizes.add_argument(
        "--classes", type=int, metavar="N", help="classes: a further row of the table means none of them"
    )
    known = parser.add_argument_group("what the file does not know")
    known.add_argument("--data", metavar="SPEC", help=f"its training set, for F_mem: {DATA}")
    known.add_argument(
        "--data-root", default="data", metavar="DIR", help="where torchvision's data lies (default data)"
    )
    known.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="it was trained on mirror images too (default: UNets were, as their recipes are)",
    )
    known.add_argument("--vae", metavar="NAME", help="the autoencoder whose latents it makes, by name or path")
    known.add_argument("--vae-scale", type=float, metavar="S", help="that latents were multiplied by (SiT: 0.18215)")
    known.add_argument("--latent-stats", metavar="FILE", help="mean and std of the latents' channels (LightningDiT)")
    return parser
