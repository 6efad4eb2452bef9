"""Pass a model on: write it as a folder, fetch one from the Hugging Face hub, and put one there."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from kinetic.errors import KineticError, first_line
from kinetic.flow.field import Field
from kinetic.models.checkpoint import chosen_weights, read_checkpoint
from kinetic.models.exported import CARD, CONFIG, KEPT, WEIGHTS, as_json, is_exported
from kinetic.models.hub import check_repository, fetched
from kinetic.models.opening import open_checkpoint
from kinetic.models.schema import check_checkpoint
from kinetic.store.files import replacing, write_text
from kinetic.trust import STRANGER, Trust

FILES = [WEIGHTS, CONFIG, CARD]


def export_checkpoint(checkpoint: Path | str, folder: Path, *, weights: str | None = None) -> dict[str, Any]:
    """Write weights of a checkpoint, the averaged ones by default, and its settings into `folder`.

    Returns what config.json holds. Raises KineticError where `folder` holds anything else than an exported model.
    """
    state, source = read_checkpoint(checkpoint), f"checkpoint {checkpoint}"
    check_checkpoint(state, source)
    which, chosen = chosen_weights(state["state_dict"], weights, checkpoint)
    text = as_json({"weights": which, **{name: state[name] for name in KEPT}}, source)
    if folder.exists() and not is_exported(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise KineticError(f"{folder} exists already and is no exported model; choose another folder")
    with replacing(folder / WEIGHTS) as beside:
        beside.touch()
        mode = beside.stat().st_mode  # as other files have it; safetensors makes one that its owner alone may read
        save_file({name: value.contiguous().clone() for name, value in chosen.items()}, beside, {"format": "pt"})
        beside.chmod(mode)
    write_text(folder / CONFIG, text)
    found: dict[str, Any] = json.loads(text)
    return found


def from_pretrained(name: Path | str, *, revision: str | None = None, trust: Trust = STRANGER) -> Field:
    """Open an exported model, a folder or a repository USER/NAME of the Hugging Face hub, to be drawn from.

    Nothing in it is executed. A repository is downloaded once, at `revision` or its newest state; KineticError where
    that fails. `trust` says whose classes the model may name besides Kinetic's.
    """
    folder = fetched(name, files=FILES, what=f"the model {name}", revision=revision)
    return open_checkpoint(folder, trust=trust).field


def push_to_hub(folder: Path | str, repository: str, *, private: bool = False) -> str:
    """Upload an exported model as the repository USER/NAME of the hub, made if need be; returns its address.

    The account is that of `hf auth login`, or of HF_TOKEN.
    """
    if not is_exported(folder):
        raise KineticError(f"{folder} is no exported model: it needs {WEIGHTS} and {CONFIG}")
    check_repository(repository)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=FILES)
    except Exception as error:
        raise KineticError(f"the hub did not take {repository}: {first_line(error)}") from None
    return str(address)
