"""A progress bar for passes that take a while: on a terminal, and of the first process alone."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm


def progress(what: str, unit: str, *, over: Iterable[Any] | None = None, total: int | None = None) -> Any:
    """Make a bar that says `what` is being done, in units of `unit`; it disappears at the end."""
    hidden = True if getattr(rank_zero_only, "rank", 0) else None  # None: hidden where there is no terminal
    return tqdm(over, desc=what, unit=f" {unit}", total=total, disable=hidden, leave=False)
