"""Processes that decode images: what they send, and what becomes of their end."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from kinetic.errors import KineticError


def delivered(loader: DataLoader[Any], workers: int) -> Iterator[Any]:
    """Yield what a loader gives; a worker that was killed, or that cannot be started, is a KineticError."""
    try:
        yield from loader
    except (RuntimeError, OSError) as error:
        message = " ".join(str(error).split())
        if not workers or not (isinstance(error, OSError) or message.startswith("DataLoader worker")):
            raise
        raise KineticError(
            f"a process that decodes images could not go on ({message[:200]}): often there is no memory left;"
            f" pass num_workers of less than {workers}, or 0"
        ) from None
