"""Files as other projects write them, made of the tiny networks in tests/parity."""

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetic.models.checkpoint import write_checkpoint
from kinetic.models.importing import imported
from kinetic.models.opening import Origin, open_checkpoint

# What their weights do not show, as it is typed.
SIZES: dict[str, dict[str, int]] = {
    "torchcfm": {"size": 8, "head_channels": 32},
    "flow_matching_cifar10_classes": {"size": 8},
    "flow_matching_imagenet": {"size": 8, "head_channels": 32},
    "sit": {"heads": 3},
    "repa": {"heads": 3},
    "repa_qknorm": {},
    "lightningdit": {},
    "lightningdit_qknorm": {},
}
NAMES = list(SIZES)
Arrays = dict[str, Tensor]


@cache
def fixture(name: str) -> tuple[Arrays, dict[str, Any]]:
    """What a file in tests/parity holds: tensors by name, and what it says of itself."""
    with np.load(Path(__file__).parent / "parity" / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files if key != "meta"}
        return arrays, json.loads(str(file["meta"]))


def parity(name: str) -> tuple[Arrays, Arrays]:
    """Weights by name, and inputs and outputs by name."""
    arrays, _ = fixture(name)
    weights = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    return weights, {key: value for key, value in arrays.items() if not key.startswith("state/")}


def published(name: str) -> dict[str, Any]:
    """What the project's training writes: averaged weights, and others (zeros) as trained."""
    weights, _ = parity(name)
    raw = {key: torch.zeros_like(value) for key, value in weights.items()}
    args = argparse.Namespace(lr=1e-4, betas=(0.9, 0.95), resume=None)
    if name == "torchcfm":
        state = {"net_model": wrapped(raw), "ema_model": wrapped(weights)}
        return {**state, "sched": {"last_epoch": 3, "lr_lambdas": [None]}, "optim": {}, "step": 400_000}
    if name.startswith("flow_matching"):
        shadows = {f"shadow_params.{n}": weights[key] for n, key in enumerate(fixture(name)[1]["parameter_order"])}
        model = {**{f"model.{key}": raw[key] for key in weights}, "num_updates": torch.tensor(7), **shadows}
        return {"model": model, "optimizer": {}, "lr_schedule": {}, "epoch": 12, "scaler": {}, "args": args}
    if name.startswith("lightningdit"):
        config = {"transport": {"path_type": "Linear", "prediction": "velocity"}}
        return {"model": wrapped(raw), "ema": weights, "opt": {}, "config": config}
    args.path_type, args.prediction = ("linear", "v") if name.startswith("repa") else ("Linear", "velocity")
    more = {"steps": 50_000} if name.startswith("repa") else {}
    return {"model": wrapped(raw, "_orig_mod."), "ema": weights, "opt": {}, "args": args, **more}


def wrapped(weights: Arrays, prefix: str = "module.") -> Arrays:
    return {prefix + key: value for key, value in weights.items()}


def opened(folder: Path, state: dict[str, Any], *, weights: str | None = None, **options: Any) -> Origin:
    """Write a public file, import it, and open the checkpoint that became of it."""
    torch.save(state, folder / "public.pt")
    write_checkpoint(imported(folder / "public.pt", **options).checkpoint, folder / "ours.ckpt")
    return open_checkpoint(folder / "ours.ckpt", weights=weights)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())
