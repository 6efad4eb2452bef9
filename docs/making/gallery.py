"""The pictures of the gallery, taken from the runs that its page names, and made small.

`uv run python -m docs.making.gallery --root runs` after the commands of docs/pages/results/gallery.md.
"""

import argparse
from pathlib import Path

from PIL import Image

from docs.making.house import ROOT

FOLDER = ROOT / "docs" / "pages" / "pictures" / "gallery"
WIDTH, COLOURS = 1100, 128
TAKEN = {  # where each lies in the folder of runs
    "copies.png": "digits/galleries/step_0001600.png",
    "energies.png": "digits/sampling/balanced/energies.png",
    "one-sample.png": "digits/sampling/balanced/energy-12.png",
    "settings.png": "digits/sampling/compare/pareto.png",
    "powers.png": "digits/studies/empirical/powers.png",
    "suspects.png": "digits/audit/suspects.png",
    "plane.png": "toy64/studies/balance/field.png",
    "balance.png": "toy64/studies/balance/balance.png",
}


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs"))
    root = parser.parse_args().root
    FOLDER.mkdir(exist_ok=True)
    for name, place in TAKEN.items():
        with Image.open(root / place) as found:
            made = found.convert("RGB")
        made.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
        made.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)
        print(f"{name:16} {(FOLDER / name).stat().st_size / 1e3:6.0f} kB")


if __name__ == "__main__":
    main()
