"""Commands as they work here: `uv run train.py` in a clone, `kinetic train` where Kinetic is installed."""

import sys
from pathlib import Path

FILES = ("train.py", "sample.py")  # of a clone


def command(name: str) -> str:
    """How a subcommand (train, sample, ...) is started here."""
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    if started.name not in FILES:
        return f"kinetic {name}"
    return f"uv run {name}.py" if f"{name}.py" in FILES else f"uv run kinetic {name}"
