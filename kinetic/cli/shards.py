"""The command `shards`: any data set as webdataset shards with a manifest."""

import argparse
from contextlib import suppress
from pathlib import Path

from kinetic.advice import command
from kinetic.cli.options import Parser
from kinetic.data.writing import OPTIONS, source, write_shards


def shards(args: list[str]) -> None:
    """Write shards: `SOURCE OUT [--per-shard N] [--format png] [--size S] [--grayscale] [--root data]`."""
    options = _parser().parse_args(args)
    data = source(options.source, root=options.root, size=options.size, grayscale=options.grayscale)
    out = Path(options.out)
    fresh = not out.exists()
    try:
        write_shards(data, out, per_shard=options.per_shard, format=options.format)
    except BaseException:
        with suppress(OSError):  # not empty
            if fresh:
                out.rmdir()
        raise
    print(f"Wrote {options.out}/: shards and manifest.json.")
    print(
        f"Next:  {command('train')} --data.class_path kinetic.data.Shards "
        f"--data.init_args.train '{options.out}/train-*.tar'"
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kinetic shards", description="Write a data set as webdataset shards with a manifest.")
    parser.add_argument("source", help="digits, cifar10, mnist, fashion_mnist, celeba, a folder of images, or shards")
    parser.add_argument("out", help="folder to write to")
    parser.add_argument("--per-shard", type=int, default=5000, help="images in one shard (default 5000)")
    parser.add_argument("--format", choices=sorted(OPTIONS), default="png", help="of pictures (default png)")
    parser.add_argument("--size", type=int, help="resize the shorter side to this and cut out the centre")
    parser.add_argument("--grayscale", action="store_true", help="turn pictures to one channel")
    parser.add_argument("--root", default="data", help="where torchvision's data sets lie (default data)")
    return parser
