"""The picture in README: `uv run docs/figure.py runs/latest docs/digits.png`."""

import sys
from pathlib import Path

from kinetic.plots import save
from kinetic.report.folder import Run
from kinetic.report.run import memorization_figure

if __name__ == "__main__":
    save(memorization_figure(Run(Path(sys.argv[1]))), sys.argv[2])
