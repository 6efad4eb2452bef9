"""Draw samples, measured and shaped: `uv run sample.py [RUN] [--kts balanced] [--option value ...]`."""

import sys

from kinetic.cli import main

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
