"""Draw samples from seeds: sample i is a function of the network, the sampler and seed i alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from kinetic.errors import KineticError
from kinetic.flow.guidance import Network, guided
from kinetic.flow.integration import METHODS, Trajectory, integrate, time_grid
from kinetic.flow.shaping import KTS, Velocity
from kinetic.tensors import seed_from, seeded_noise

PRECISIONS: dict[str, torch.dtype | None] = {
    "32": None,
    "32-true": None,
    "64": None,
    "64-true": None,
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16": torch.float16,
    "16-mixed": torch.float16,
}
RENOISE = 0x5EED  # keeps the noise of `renoise` apart from the noise that samples start from


@dataclass(frozen=True)
class Sampler:
    """How to go from noise to data; see `kinetic.flow.integration.integrate` for the methods and grids."""

    method: str = "euler"
    steps: int = 100  # intervals of a fixed method; a list of times in `grid` decides them itself
    grid: str | tuple[float, ...] = "uniform"
    guidance: float = 1.0  # 1 is no guidance
    kts: KTS = field(default_factory=lambda: KTS.preset("off"))
    rtol: float = 1e-5  # of the adaptive methods
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise KineticError(f"unknown method {self.method!r}; choose from {', '.join(METHODS)}")
        times = time_grid(self.grid, self.steps)
        if not isinstance(self.grid, str):
            object.__setattr__(self, "grid", tuple(map(float, self.grid)))
            object.__setattr__(self, "steps", len(times) - 1)
        for name in ("rtol", "atol"):
            if not getattr(self, name) > 0:
                raise KineticError(f"{name} must be above 0, got {getattr(self, name)}")
        if not abs(self.guidance) < float("inf"):
            raise KineticError(f"guidance must be a finite number, got {self.guidance}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain types alone, for a configuration or a checkpoint; `from_dict` takes them back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        grid = self.grid if isinstance(self.grid, str) else list(self.grid)
        return values | {"grid": grid, "kts": self.kts.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampler":
        """Build a sampler from `to_dict`'s values; `kts` may also be the name of a preset. Unknown keys are refused."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise KineticError(f"unknown sampler option {unknown[0]!r}; choose from {', '.join(known)}")
        kts = values.get("kts", "off")
        shaping = kts if isinstance(kts, KTS) else KTS.preset(kts) if isinstance(kts, str) else KTS(**kts)
        return cls(**{**values, "kts": shaping})


def draw(
    net: Network,
    seeds: Sequence[int] | Tensor,
    *,
    shape: Sequence[int],
    labels: Tensor | Sequence[int] | int | None = None,
    sampler: Sampler | None = None,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
    keep_path: int = 0,
) -> Trajectory:
    """Draw one sample of `shape` for each of `seeds` [B] in one batch, on `device`, where `net` already is.

    Noise is drawn on the CPU, so it is the same for any batch size, order, device and number of processes. `labels` are
    int64 [B], or one for all. `precision` holds for the network alone (32, 64, bf16 or 16, or Lightning's names for
    them); states and energies are float32 or wider. The network is in evaluation mode meanwhile, without gradients.
    """
    sampler = sampler or Sampler()
    x0 = seeded_noise(seeds, shape).to(device)
    x0 = x0.double() if precision.startswith("64") else x0
    with evaluating(net):
        velocity = guided(in_precision(net, precision, x0.device), _labels(net, labels, x0), sampler.guidance)
        return _follow(velocity, x0, sampler, keep_path=keep_path)


def renoise(
    net: Network,
    x: Tensor,
    seeds: Sequence[int] | Tensor,
    *,
    labels: Tensor | Sequence[int] | int | None = None,
    sampler: Sampler | None = None,
    t: float = 0.7,
    repeats: int = 2,
    precision: str = "32-true",
) -> Tensor:
    """Distance from samples `x` [B, ...] to where they end after going back to time `t` with fresh noise -> [B].

    The mean Euclidean distance of `repeats`; small means that the network leads everything nearby to `x`, as it does
    with images it has memorised, so it needs no training data. Follows the sampler's method and guidance, unshaped,
    with equal steps of its mean size, at `repeats (1 - t)` of the cost of a sample. Noise depends on the seed alone.
    """
    if repeats < 1:
        raise KineticError(f"repeats must be at least 1, got {repeats}")
    if not 0 < t < 1:
        raise KineticError(f"t must lie strictly between 0 and 1, got {t}")
    sampler = sampler or Sampler()
    steps = max(1, round(sampler.steps * (1 - t)))
    rest = {"start": t, "steps": steps, "grid": "uniform", "kts": KTS.preset("off"), "measure": False}
    total = x.new_zeros(x.shape[0])
    with evaluating(net):
        velocity = guided(in_precision(net, precision, x.device), _labels(net, labels, x), sampler.guidance)
        for repeat in range(repeats):
            keys = [seed_from(int(seed), repeat, RENOISE) for seed in seeds]
            noise = seeded_noise(keys, x.shape[1:]).to(x)
            end = _follow(velocity, torch.lerp(noise, x, t), sampler, **rest)
            total += (end.x - x).flatten(1).norm(dim=1)
    return total / repeats


def _follow(velocity: Velocity, x0: Tensor, sampler: Sampler, **options: Any) -> Trajectory:
    """Integrate by the sampler's method, tolerances and, unless told otherwise, its steps, grid and shaping."""
    settings = {name: getattr(sampler, name) for name in ("method", "steps", "grid", "kts", "rtol", "atol")}
    return integrate(velocity, x0, **settings | options)


def _labels(net: Network, labels: Tensor | Sequence[int] | int | None, x: Tensor) -> Tensor | None:
    """Check labels and bring them to [B] int64 on the device of `x` [B, ...]; the null label counts as one."""
    if labels is None:
        return None
    classes = getattr(net, "num_classes", None)
    if classes is None:
        raise KineticError("labels given, but the network is unconditional; leave them out")
    wanted = torch.as_tensor(labels, dtype=torch.int64, device=x.device)
    wanted = wanted.expand(x.shape[0]) if wanted.ndim == 0 else wanted
    if wanted.shape != x.shape[:1]:
        raise KineticError(
            f"labels must be one for all or one for each of {x.shape[0]} seeds, got {tuple(wanted.shape)}"
        )
    if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) <= classes:
        outside = int(wanted.min()) if int(wanted.min()) < 0 else int(wanted.max())
        raise KineticError(f"label {outside} is outside the classes 0 to {classes - 1} (and {classes}, the null label)")
    return wanted


@contextmanager
def evaluating(net: Network) -> Iterator[None]:
    """Put every part of a module into evaluation mode for a while, and each back as it was; without gradients."""
    parts = list(net.modules()) if isinstance(net, nn.Module) else []
    training = [part for part in parts if part.training]
    for part in parts:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def in_precision(net: Network, precision: str, device: torch.device) -> Network:
    """Wrap `net` so that autocast is as `precision` says around the network alone, whatever it is outside."""
    if precision not in PRECISIONS:
        raise KineticError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]

    class Cast:
        num_classes = getattr(net, "num_classes", None)

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                return net(x, t, labels)

    return Cast()


def seed_range(text: str) -> list[int]:
    """Parse seeds such as "0-49999" (both ends included), "1,5,9" or "0-3,10"; repeats and disorder are refused."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise KineticError(f"cannot read seeds {text!r}; write them like 0-49999 or 1,5,9")
        span = range(int(first), int(last if dash else first) + 1)
        if not span or (seeds and span[0] <= seeds[-1]):
            raise KineticError(f"seeds {text!r} must rise without repeats, like 0-49999 or 1,5,9")
        seeds.extend(span)
    return seeds
