"""What a step of the solver costs beside the network: our loop, torchdiffeq's own, and the floor, in turn in one run.

The velocity does nothing, so all that is timed is the loop: Euler steps of a batch like CIFAR-10's, with both energies.
The floor is the least that any loop does that gives the same numbers: the time handed to the network on its device, the
state moved, ½‖v‖² summed and accumulated. `bare` is that without energies. torchdiffeq's own loop carries the energies
as further parts of its state, as Kinetic did before.

    python benchmarks/solver_loop.py --batch 64 --steps 100 --rounds 15
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint

from kinetic.flow.energy import Energy, FieldEnergy
from kinetic.flow.integration import integrate
from kinetic.flow.measures import power

Task = Callable[[], object]


def tasks(x0: Tensor, steps: int) -> dict[str, Task]:
    """Name what is timed."""
    zero, count = torch.zeros_like(x0), len(x0)
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return zero

    def bare() -> Tensor:
        x = x0
        for i in range(steps):
            x = (1 / steps * velocity(x, x.new_full((count,), i / steps))).add_(x)
        return x

    def floor() -> tuple[Tensor, Tensor]:
        x, energy = x0, x0.new_zeros(count)
        for i in range(steps):
            v = velocity(x, x.new_full((count,), i / steps))
            energy = energy + 1 / steps * power(v)
            x = (1 / steps * v).add_(x)
        return x, energy

    def theirs() -> object:
        def rates(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            v = velocity(state[0], t.to(x0.device, x0.dtype).expand(count).contiguous())
            spent = power(v)
            return v, spent, spent

        energy = x0.new_zeros(count)
        ends = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64, device=x0.device)
        return odeint(rates, (x0, energy, energy), ends, method="euler", options={"grid_constructor": lambda *_: grid})

    measured = [Energy(), FieldEnergy()]
    return {
        "bare loop, no energies": bare,
        "floor: bare loop with energies": floor,
        "integrate, two energies": lambda: integrate(velocity, x0, steps=steps, measures=measured),
        "integrate, all that is standard": lambda: integrate(velocity, x0, steps=steps),
        "torchdiffeq's loop, two energies": theirs,
    }


@torch.no_grad()
def main() -> None:
    """Time in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    x0 = torch.randn(args.batch, 3, 32, 32, device=args.device)
    timed = tasks(x0, args.steps)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for task in timed.values():
        task()
    for _ in range(args.rounds):
        for name, task in timed.items():
            start = time.perf_counter()
            task()
            if x0.is_cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    floor = seconds["floor: bare loop with energies"]
    for name, values in seconds.items():
        ratios = sorted(mine / least for mine, least in zip(values, floor, strict=True))
        low, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.75))
        print(
            f"{name:34} {1000 * statistics.median(values):7.1f} ms, {statistics.median(ratios):5.2f} of the floor"
            f" (quartiles {low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
