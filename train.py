"""Train a flow-matching model: `uv run train.py [--config configs/x.yaml] [--key value ...]`."""

import sys

from kinetic.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
