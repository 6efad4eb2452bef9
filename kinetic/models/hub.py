"""Repositories of the Hugging Face hub: what they are called, and what is fetched of them."""

import re
from collections.abc import Sequence
from pathlib import Path

from kinetic.errors import KineticError, first_line

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_repository(name: str) -> str:
    """Return the name of a repository; KineticError for another."""
    if not REPOSITORY.fullmatch(name):
        raise KineticError(f"{name!r:.80} is no name of a repository of the hub; pass USER/NAME")
    return name


def fetched(
    name: Path | str,
    *,
    files: Sequence[str],
    what: str,
    repository: str | None = None,
    revision: str | None = None,
    download: bool = True,
) -> Path:
    """The folder called `name`, or where there is none the `files` of a repository, downloaded or from before.

    `what` is how messages call it, and `repository` its name on the hub, if that is another. KineticError where it is
    neither a folder nor to be had; without `download` it is looked for on this machine alone.
    """
    if Path(name).exists():
        return Path(name)
    repository = str(name) if repository is None else repository
    if not REPOSITORY.fullmatch(repository):
        raise KineticError(f"{what} does not exist: pass a folder, or USER/NAME of the hub")
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            repository, revision=revision, allow_patterns=list(files), local_files_only=not download
        )
    except Exception as error:  # no network, no such repository, no access: a dozen classes
        where = "and the hub did not give it" if download else "and was not downloaded before"
        raise KineticError(f"{what} is no folder here, {where}: {first_line(error)}") from None
    return Path(found)
