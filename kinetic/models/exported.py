"""Models as others pass them on: a folder of weights and plain settings, neither of which can hold code.

`model.safetensors` has the weights under the network's own names, `config.json` what else a checkpoint says of them.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from kinetic.errors import KineticError, first_line
from kinetic.store.plain import read_json

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
LIBRARY = "kinetic"
KEPT = ("hyper_parameters", "global_step", "epoch", "kinetic")  # of a checkpoint, beside the weights
PREFIXES = {"ema": "ema.network.", "raw": "net."}  # of weights in a checkpoint


def is_exported(path: Path | str) -> bool:
    """Whether this is a folder of an exported model."""
    return (Path(path) / WEIGHTS).is_file() and (Path(path) / CONFIG).is_file()


def read_exported(folder: Path | str) -> dict[str, Any]:
    """Read an exported model as the checkpoint it was made from, as far as sampling needs it."""
    folder = Path(folder)
    if not is_exported(folder):
        raise KineticError(f"{folder} is no exported model: it needs {WEIGHTS} and {CONFIG}")
    source, config = f"exported model {folder}", read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("library_name") != LIBRARY or config.get("weights") not in PREFIXES:
        raise KineticError(f"{source} is none of Kinetic's: {CONFIG} should name library_name {LIBRARY!r} and weights")
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise KineticError(f"{source} cannot be read, {WEIGHTS} is damaged: {first_line(error)}") from None
    named = {f"{PREFIXES[config['weights']]}{name}": value for name, value in weights.items()}
    return {"state_dict": named, **{name: config[name] for name in KEPT if name in config}}


def as_json(config: dict[str, Any], source: str) -> str:
    """The text of config.json; KineticError where a setting is not plain."""
    try:
        return json.dumps({"library_name": LIBRARY, **config}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise KineticError(f"{source} cannot be exported, its settings are not plain: {first_line(error)}") from None
