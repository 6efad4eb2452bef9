"""The command `encode`: the latents of a data set as webdataset shards, to train on."""

import argparse
import math
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerStatus

from kinetic.advice import command
from kinetic.build import build
from kinetic.cli.latent_options import as_told
from kinetic.cli.options import Parser, devices_of
from kinetic.cli.partners import AGAIN, watching
from kinetic.cli.quiet import quiet
from kinetic.data import FlowDataModule
from kinetic.data.encoding import Encoding, encoding
from kinetic.data.latents import POSTERIORS
from kinetic.data.manifest import FILE, Manifest, load_manifest
from kinetic.data.naming import named_data
from kinetic.data.options import whole
from kinetic.errors import KineticError
from kinetic.models.autoencoder import Autoencoder, chosen, load_autoencoder
from kinetic.studies.encoding import encode_shards
from kinetic.studies.experiment import predictor
from kinetic.training.lightning import started_processes
from kinetic.training.loggers import is_rank_zero
from kinetic.trust import OWN

EXAMPLES = """examples:
  kinetic encode imagenet/train data/imagenet256 --test imagenet/val --size 256 --vae sd-vae-ft-ema --flip
  kinetic encode cifar10 latents --vae my-vae --devices 2

What is whole is kept: the same command goes on where it was stopped."""
TEST = {"kinetic.data.Folder": "test_path", "kinetic.data.Shards": "test"}
SHOWN = 8  # images that are decoded again, to say how good the autoencoder is


def encode(args: list[str]) -> None:
    """Write latents: `SOURCE OUT --vae NAME [--size S] [--flip] ...`; --help lists the options."""
    quiet()
    options = _parser().parse_args(args)
    for name, most in (("batch_size", 2**16), ("per_shard", 10**9)):
        whole(f"--{name.replace('_', '-')}", getattr(options, name), 1, most)
    trainer = predictor(accelerator=options.accelerator, devices=devices_of(options.devices), callbacks=())
    data = _data(options)
    autoencoder = _autoencoder(options, trainer.strategy.root_device)
    plan = encoding(
        data,
        Path(options.out),
        autoencoder.encode,
        autoencoder.latents,
        mirrored=options.flip,
        batch=options.batch_size,
        per_shard=options.per_shard,
    )
    ending = TrainerStatus.INTERRUPTED
    with watching(lambda: started_processes(trainer), lambda: trainer.state.status == ending, advice=AGAIN):
        done = encode_shards(plan, autoencoder, trainer)
    if trainer.is_global_zero:
        print(_summary(options, plan, autoencoder, fresh=done is not None))


def _data(options: Any) -> FlowDataModule:
    """The images, with those of --test held out."""
    common = {"size": options.size, "num_workers": options.num_workers, "num_val": options.num_val, "cache": False}
    config = named_data(options.source, root=options.root, **common)
    if options.test is not None:
        argument = TEST.get(config["class_path"])
        if argument is None:
            raise KineticError(f"--test does not go with {options.source}, which has a test split of its own")
        config["init_args"][argument] = options.test
    data = cast(FlowDataModule, build(config, base=FlowDataModule, home="kinetic.data", trust=OWN))
    if is_rank_zero():
        data.prepare_data()
    data.setup()
    if len(data.shape) != 3 or data.latents is not None or data.shape[0] not in (1, 3):
        raise KineticError(f"{options.source} holds no pictures to encode, its samples have shape {data.shape}")
    return data


def _autoencoder(options: Any, device: torch.device) -> Autoencoder:
    found = load_autoencoder(options.vae, download=True, device=device)
    latents = chosen(found.latents, posterior=options.posterior, precision=options.precision)
    return Autoencoder(found.net, as_told(latents, options, found.channels))


def _summary(options: Any, plan: Encoding, autoencoder: Autoencoder, *, fresh: bool) -> str:
    """Where the latents are, what they are, and what to type next."""
    content = load_manifest(plan.folder / FILE)
    latents, shape = autoencoder.latents, " x ".join(map(str, content.shape))
    counts = {name: sum(e.count for e in content.shards if e.file.startswith(name)) for name in ("train", "test")}
    kinds = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    shifted = "" if latents.mean is None and latents.std is None else ", mean and std of each channel taken out"
    lines = [
        f"{'Wrote' if fresh else 'All is there already:'} {options.out}/: {kinds} latents of {shape} in "
        f"{len(content.shards):,} shards, and {FILE}.",
        f"  {latents.vae} ({latents.sha256!s:.12}), {latents.posterior} of the posterior, scale {latents.scale:g}"
        f"{shifted}",
        f"  {_reconstruction(plan, autoencoder)}",
        f"Next:  {_next(options.out, content)}",
    ]
    return "\n".join(lines)


def _next(out: str, content: Manifest) -> str:
    """The command that trains on the latents: SiT's recipe where they are as its own, else a small one."""
    channels, size = content.shape[:2]
    if content.shape == (4, 32, 32) and content.num_classes == 1000:
        return f"{command('train')} --config imagenet256_sit --data.init_args.train {out}"
    sizes = {"in_channels": channels, "input_size": size, "num_classes": content.num_classes or "null"}
    sizes |= {"patch_size": 1} if size % 2 else {}
    words = [
        f"{command('train')} --config cifar10_dit --data.class_path kinetic.data.Shards --data.init_args.train {out}",
        "--data.init_args.flip false",
        *(f"--network.init_args.{name} {value}" for name, value in sizes.items()),
        *([] if content.num_classes else ["--model.label_dropout 0"]),
    ]
    return " ".join(words)


def _reconstruction(plan: Encoding, autoencoder: Autoencoder) -> str:
    """How near decoded latents come to the images."""
    x, _, names = next(iter(plan.data.reference(chunk=SHOWN, flips=False)))
    decoded = autoencoder.decode(autoencoder.encode(x, names))
    if decoded.shape[2:] != x.shape[2:]:
        return f"decoded images have {decoded.shape[2]} x {decoded.shape[3]} pixels, others than the images"
    error = float((decoded - x).square().mean())
    return f"PSNR of {len(x)} images decoded again: {10 * math.log10(4 / max(error, 1e-12)):.1f} dB"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="kinetic encode",
        description="Write the latents of a data set as webdataset shards with a manifest.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="digits, cifar10, mnist, fashion_mnist, celeba, a folder of images, or shards")
    parser.add_argument("out", help="folder to write to")
    images = parser.add_argument_group("images")
    images.add_argument("--test", metavar="SOURCE", help="a folder, or shards, of held-out images")
    images.add_argument("--size", type=int, help="resize the shorter side to this and cut out the centre")
    images.add_argument("--flip", action="store_true", help="encode every training image and its mirror image")
    images.add_argument("--num-val", type=int, default=256, metavar="N", help="--flip: held out without a test split")
    images.add_argument("--root", default="data", help="where torchvision's data sets lie (default data)")
    vae = parser.add_argument_group("autoencoder")
    vae.add_argument("--vae", required=True, metavar="NAME", help="a folder as diffusers writes it, or of the hub")
    vae.add_argument("--vae-scale", type=float, metavar="S", help="that latents are multiplied by (default: its own)")
    vae.add_argument("--latent-stats", metavar="FILE", help="mean and std of the channels, which are taken out")
    vae.add_argument("--posterior", choices=POSTERIORS, default="mean", help="its mean, or a sample (default mean)")
    vae.add_argument("--precision", default="32", help="of the autoencoder: 32 or bf16 (default 32)")
    where = parser.add_argument_group("where to compute")
    where.add_argument("--per-shard", type=int, default=5000, help="latents in one shard (default 5000)")
    where.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default 32)")
    where.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that decode images")
    where.add_argument("--devices", default="1", metavar="N", help="how many devices or processes, or auto")
    where.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ...")
    return parser
