"""What Euler's method leaves of the noise under shaping, with η at the start of each step or its mean over the step.

`uv run benchmarks/average_gain.py`: one training point, whose field (x1 - x)/(1 - t) the unshaped flow follows to the
point itself; the residual is ‖x(1) - x1‖ / ‖x0 - x1‖, in percent. Shifted grids are those of diffusers' schedulers.
"""

import torch

from kinetic import KTS, integrate

SHIFTS = {"Stable Diffusion 3, 28 steps": (28, 3.0), "Flux, 28 steps": (28, 3.158), "Wan, 50 steps": (50, 5.0)}


def residual(kts: KTS, *, average_gain: bool, grid: list[float]) -> float:
    """Follow one point of noise along `grid`, times from 0 to 1."""
    x0, x1 = torch.randn(1, 4, dtype=torch.float64), torch.full((1, 4), 3.0, dtype=torch.float64)
    found = integrate(
        lambda x, t: (x1 - x) / (1 - t[:, None]), x0, grid=grid, kts=kts, average_gain=average_gain, measures=()
    )
    return float((found.x - x1).norm() / (x0 - x1).norm())


def shifted(steps: int, shift: float) -> list[float]:
    """Times of a grid of equal steps in σ = 1 - t, shifted towards noise: σ becomes s σ / (1 + (s - 1) σ)."""
    sigmas = [1 - i / steps for i in range(steps + 1)]
    return [1 - shift * sigma / (1 + (shift - 1) * sigma) for sigma in sigmas]


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    grids = {f"{steps:,} equal steps": shifted(steps, 1.0) for steps in (10, 20, 40, 100, 1000)}
    grids |= {name: shifted(*how) for name, how in SHIFTS.items()}
    print(f"{'grid':30}{'balanced':>12}{'mean':>10}{'landing':>12}{'mean':>10}   steps from τ on")
    for name, grid in grids.items():
        late = sum(t >= 0.6 - 1e-9 for t in grid[:-1])
        cells = [
            f"{100 * residual(KTS.preset(preset), average_gain=average, grid=grid):.3f}"
            for preset in ("balanced", "landing")
            for average in (False, True)
        ]
        print(f"{name:30}{cells[0]:>12}{cells[1]:>10}{cells[2]:>12}{cells[3]:>10}   {late}")


if __name__ == "__main__":
    main()
