"""The picture in README: how points travel from noise to data, coloured by power.

`uv run python -m docs.making.trajectories toy toy64 docs/pages/pictures/trajectories.gif` after

    uv run train.py --config configs/toy2d.yaml --model.coupling independent --run.name toy
    uv run train.py --config configs/toy2d.yaml --model.coupling independent --run.name toy64 --data.num_train 64
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from kinetic.data.opening import open_data
from kinetic.flow.sampling import Sampler, draw
from kinetic.models.opening import open_run
from kinetic.plots.style import GREEN, INK, PAPER, style
from kinetic.trust import STRANGER

SEEDS, STEPS = 250, 60
MILLISECONDS, HELD = 70, 1200  # how long a picture stays, and the last
POWERS = LogNorm(0.03, 3)
COLOURS = LinearSegmentedColormap.from_list("power", colormaps["plasma"](np.linspace(0, 0.87, 64)))
FEW, SHOWN = 200, 4000  # training points that are drawn one by one, and at most


@style
def frames(runs: list[str], root: str) -> list[Image.Image]:
    """Follow the same seeds in each run, a panel each: one picture at the start of each step, and one at the end."""
    figure = Figure(figsize=(7.6, 4.1), dpi=100, layout=ConstrainedLayoutEngine(rect=(0, 0.05, 1, 0.95)))
    figure.set_facecolor(PAPER)
    axes = figure.subplots(1, len(runs), sharex=True, sharey=True)
    panels = [_panel(one, run, root) for one, run in zip(axes, runs, strict=True)]
    bar = figure.colorbar(ScalarMappable(POWERS, COLOURS), ax=axes, fraction=0.03, pad=0.02)
    bar.set_ticks([0.03, 0.1, 0.3, 1, 3], labels=["0.03", "0.1", "0.3", "1", "3"])
    bar.ax.minorticks_off()
    bar.set_label("power ½‖v‖²")
    clock = figure.text(0.5, 0.01, "", ha="center", color=INK)
    canvas, made = FigureCanvasAgg(figure), []
    for step in range(STEPS + 1):
        clock.set_text(f"t = {step / STEPS:.2f}" + {0: "  (noise)", STEPS: "  (data)"}.get(step, ""))
        for panel in panels:
            panel(step)
        canvas.draw()
        made.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return made


def _panel(axes: Axes, name: str, root: str) -> Callable[[int], None]:
    """Draw what stays of a run's panel; return what draws a step."""
    origin = open_run(name, root=root)
    sampler = Sampler(method="heun2", steps=STEPS)
    drawn = draw(origin.field, range(SEEDS), sampler=sampler, keep_path=SEEDS)
    data: Any = open_data(Path(root) / name, STRANGER)
    points = np.concatenate([np.asarray(images) for images, *_ in data.reference()])
    path, power = np.asarray(drawn.path), np.asarray(drawn.power)
    if len(points) <= FEW:
        axes.scatter(points[:, 0], points[:, 1], s=26, facecolor="none", edgecolor=GREEN, linewidth=1, zorder=4)
    else:
        axes.scatter(points[:SHOWN, 0], points[:SHOWN, 1], s=1.5, color=GREEN, linewidth=0, alpha=0.35)
    lines = LineCollection([], cmap=COLOURS, norm=POWERS, linewidths=0.8, alpha=0.8)
    axes.add_collection(lines)
    heads = axes.scatter(path[0, :, 0], path[0, :, 1], s=5, color=INK, linewidth=0, zorder=3)
    energy = f"mean path energy {drawn.energy.mean():.2f}"
    axes.set_title(f"{len(points):,} training points, {energy}", fontsize=9.5, loc="center")
    axes.set(aspect="equal", xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), xticks=[-1, 0, 1], yticks=[-1, 0, 1])

    def show(step: int) -> None:
        lines.set_segments(list(np.stack([path[:-1], path[1:]], 2)[:step].reshape(-1, 2, 2)))
        lines.set_array(power[:step].reshape(-1))
        heads.set_offsets(path[step])

    return show


def main() -> None:
    """Draw the runs that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2)
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", default="runs")
    options = parser.parse_args()
    made = frames(options.runs, options.root)
    palette = made[-1].quantize(64)
    small = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in made]
    durations = [MILLISECONDS] * STEPS + [HELD]
    small[0].save(options.out, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)
    print(f"{options.out}: {len(small)} pictures, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
