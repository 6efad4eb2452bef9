"""Data sets as people type them: digits, cifar10, a folder of images, a shard pattern."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinetic.build import ClassConfig
from kinetic.data.folders import SUFFIXES as PICTURES
from kinetic.data.names import shown
from kinetic.data.options import text
from kinetic.data.sources import SUFFIXES, is_remote
from kinetic.data.vision import DATASETS
from kinetic.errors import KineticError


def named_data(spec: str, *, root: str = "data", option: str = "SOURCE", **common: Any) -> ClassConfig:
    """Class and arguments of a data set by its name (digits, cifar10, ...), a folder of images, or a shard pattern.

    `root` is where torchvision's data sets lie, `option` what was typed is called, and `common` are arguments of
    FlowDataModule, such as `size` and `grayscale`.
    """
    if spec == "digits":
        return _config("Digits", **common)
    if spec in DATASETS:
        return _config("Vision", dataset=spec, root=root, **common)
    text(option, spec)
    if os.path.isdir(spec):
        with listing(spec):
            names = [p.name for p in Path(spec).iterdir() if not p.name.startswith(".")]
        tars = [n for n in names if n.endswith(SUFFIXES)]
        pictures = [n for n in names if n.lower().endswith(PICTURES)]
        if tars and pictures:
            raise KineticError(
                f"{shown(spec)} holds tars ({shown(tars[0])}) and images ({shown(pictures[0])}):"
                " move the ones or the others to a folder of their own"
            )
        return _config("Shards", train=spec, **common) if tars else _config("Folder", path=spec, **common)
    if is_remote(spec) or ".tar" in spec or ".tgz" in spec:
        return _config("Shards", train=spec, **common)
    known = ", ".join(("digits", *DATASETS))
    raise KineticError(
        f"{shown(spec)} is no data set ({known}), no folder that exists and no shard pattern (*.tar): pass one"
    )


def _config(name: str, **arguments: Any) -> ClassConfig:
    return {"class_path": f"kinetic.data.{name}", "init_args": arguments}


@contextmanager
def listing(folder: str) -> Iterator[None]:
    """Turn a folder that cannot be listed into a KineticError."""
    try:
        yield
    except OSError as error:
        raise KineticError(f"folder {shown(folder)} cannot be listed ({error.strerror}): mend or replace it") from None
