"""Copying and energy over training, as the first page of the site shows it.

`uv run python -m docs.making.figure runs/latest docs/pages/pictures/digits.png`.
"""

import sys
from pathlib import Path

from kinetic.plots import save
from kinetic.report.folder import Run
from kinetic.report.run import memorization_figure

if __name__ == "__main__":
    save(memorization_figure(Run(Path(sys.argv[1]))), sys.argv[2])
