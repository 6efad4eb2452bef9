"""The picture in README: how points travel from noise to data, coloured by power.

`uv run python -m docs.making.trajectories toy toy64 docs/pages/pictures/trajectories.gif` after

    uv run train.py --config configs/toy2d.yaml --model.coupling independent --run.name toy
    uv run train.py --config configs/toy2d.yaml --model.coupling independent --run.name toy64 --data.num_train 64
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from PIL import Image

from kinetic.data.opening import open_data
from kinetic.flow.sampling import Sampler, draw
from kinetic.models.opening import open_run
from kinetic.plots.style import GREEN, INK, PAPER, style
from kinetic.trust import STRANGER

SEEDS, STEPS, HELD, MILLISECONDS = 250, 60, 18, 70  # HELD: pictures for which the end stays
POWERS = LogNorm(0.03, 3)
COLOURS = LinearSegmentedColormap.from_list("power", colormaps["plasma"](np.linspace(0, 0.87, 64)))
FEW, SHOWN = 200, 4000  # training points that are drawn one by one, and at most


@style
def figure(runs: list[str], root: str) -> tuple[Figure, FuncAnimation]:
    """Follow the same seeds in each run, a panel each."""
    made = Figure(figsize=(7.6, 4.1), dpi=100, layout="constrained", facecolor=PAPER)
    axes = made.subplots(1, len(runs), sharex=True, sharey=True)
    drawn = [_panel(one, run, root) for one, run in zip(axes, runs, strict=True)]
    bar = made.colorbar(ScalarMappable(POWERS, COLOURS), ax=axes, fraction=0.03, pad=0.02, ticks=[0.03, 0.1, 0.3, 1, 3])
    bar.ax.set_yticklabels(["0.03", "0.1", "0.3", "1", "3"])
    bar.ax.minorticks_off()
    bar.set_label("power ½‖v‖²")
    clock = made.text(0.5, 0.01, "", ha="center", color=INK)
    made.get_layout_engine().set(rect=(0, 0.05, 1, 0.95))

    def show(number: int) -> list[object]:
        now = min(number, STEPS)
        clock.set_text(f"t = {now / STEPS:.2f}" + ("  (noise)" if now == 0 else "  (data)" if now == STEPS else ""))
        for lines, heads, path, power in drawn:
            pieces = np.stack([path[:-1], path[1:]], 2)[max(now - STEPS, 0) : now]  # [steps, seeds, 2, 2]
            lines.set_segments(pieces.reshape(-1, 2, 2))
            lines.set_array(power[:now].reshape(-1))
            heads.set_offsets(path[now])
        return []

    return made, FuncAnimation(made, show, frames=STEPS + 1 + HELD)


def _panel(axes: Axes, name: str, root: str) -> tuple[LineCollection, PathCollection, np.ndarray, np.ndarray]:
    origin = open_run(name, root=root)
    measured = draw(origin.field, range(SEEDS), sampler=Sampler(method="heun2", steps=STEPS), keep_path=SEEDS)
    points = np.concatenate([np.asarray(images) for images, *_ in open_data(origin.run, STRANGER).reference()])
    path, power = measured.path.numpy(), measured.power.numpy()
    few = len(points) <= FEW
    if few:
        axes.scatter(*points.T, s=26, facecolor="none", edgecolor=GREEN, linewidth=1, zorder=4)
    else:
        axes.scatter(*points[:SHOWN].T, s=1.5, color=GREEN, linewidth=0, alpha=0.35)
    lines = axes.add_collection(LineCollection([], cmap=COLOURS, norm=POWERS, linewidths=0.8, alpha=0.8))
    heads = axes.scatter(*path[0].T, s=5, color=INK, linewidth=0, zorder=3)
    energy = measured.energy.mean().item()
    axes.set_title(f"{len(points):,} training points, mean path energy {energy:.2f}", fontsize=9.5, loc="center")
    axes.set(aspect="equal", xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    return lines, heads, path, power


def main() -> None:
    """Draw the runs that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2)
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", default="runs")
    options = parser.parse_args()
    _, animation = figure(options.runs, options.root)
    animation.save(options.out, writer=PillowWriter(fps=1000 / MILLISECONDS))
    _shrink(options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


def _shrink(path: Path) -> None:
    """Write the pictures again with few colours, the last one held."""
    with Image.open(path) as made:
        frames = []
        for number in range(made.n_frames):
            made.seek(number)
            frames.append(made.convert("RGB"))
    palette = frames[-1].quantize(64)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames[: STEPS + 1]]
    durations = [MILLISECONDS] * STEPS + [MILLISECONDS * HELD]
    small[0].save(path, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    main()
