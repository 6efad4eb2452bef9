"""A small classifier of a run's own labelled images, trained in at most a minute on one core: features that know them.

Its figures compare settings on one data set and are not to be compared with published ones.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinetic.errors import KineticError
from kinetic.tensors import chunks, exact_products, generator, seed_from

WIDTH = 64  # numbers of the layer before the last
LARGEST = 32  # pixels a side; larger pictures are shrunk
BATCH = 128
STEPS = (150, 300)  # least and most
WORK = 2e11  # multiplications of all forward passes together, which take less than a minute on one core
AT_ONCE = 512  # images in evaluation
RATE = 3e-3


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network of two parts, and how well it does on images that it was not trained on."""

    trunk: nn.Module  # [n, ...] -> [n, 64]
    head: nn.Module  # [n, 64] -> [n, classes]
    shape: torch.Size  # of an image as the network sees it, see `shrunk`
    accuracy: float  # of the held-out images
    tested: int  # how many they are
    steps: int  # of training

    def features(self, x: Tensor) -> Tensor:
        """Activations [n, 64] of the layer before the last, of images float32 [n, ...] in [-1, 1]."""
        small = shrunk(x)
        if small.shape[1:] != self.shape:
            raise KineticError(f"the classifier was trained on {list(self.shape)}, got images of {list(x.shape[1:])}")
        return self.trunk(small)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [n, classes] of images float32 [n, ...] in [-1, 1]."""
        return self.head(self.features(x))

    def to(self, device: torch.device | str) -> "Classifier":
        """The same classifier, moved."""
        self.trunk.to(device)
        self.head.to(device)
        return self


def fit_classifier(
    images: Tensor,
    labels: Tensor | None,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> Classifier:
    """Train on images float [N, C, H, W] in [-1, 1], or points [N, D], with labels int64 [N] from 0.

    The same `seed` gives the same weights on one machine, whatever the device of the images: it is trained on the CPU.
    Without `held_out` images and labels, every fifth image of a seeded order is held out of training. `steps` are as
    many as a minute allows.
    """
    images, labels = _checked(images, labels, least=10)
    if held_out is None:
        order = torch.randperm(len(images), generator=generator(seed, 1))
        fifth, rest = order[::5], order[torch.arange(len(order)) % 5 != 0]
        held_out, images, labels = (images[fifth], labels[fifth]), images[rest], labels[rest]
    tests, truth = _checked(*held_out, least=1)
    small = shrunk(images)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed_from(seed))
        trunk = _network(small.shape[1:])
        head = nn.Linear(WIDTH, int(torch.cat([labels, truth]).max()) + 1)
        count = _affordable(trunk, small[:1]) if steps is None else steps
        with exact_products(torch.device("cpu")):
            _train(nn.Sequential(trunk, head), small.clone(), labels.clone(), steps=count, seed=seed)
    for part in (trunk, head):
        part.eval().requires_grad_(False)
    model = Classifier(trunk, head, small.shape[1:], math.nan, len(tests), count)
    right = [model.logits(tests[rows]).argmax(1) == truth[rows] for rows in chunks(len(tests), AT_ONCE)]
    return replace(model, accuracy=float(torch.cat(right).double().mean()))


def _checked(images: Tensor, labels: Tensor | None, *, least: int) -> tuple[Tensor, Tensor]:
    """Images and labels on the CPU; KineticError where they cannot be trained on."""
    if labels is None:
        raise KineticError("a classifier needs labelled images and this data set has none; use pixels or pca:N")
    if len(images) != len(labels) or len(images) < least:
        have = f"{len(images)} images, {len(labels)} labels"
        raise KineticError(f"a classifier needs at least {least} images with a label each, got {have}")
    if bool((labels < 0).any()):
        raise KineticError(f"labels are whole numbers from 0, got {int(labels.min())}")
    return images.detach().float().cpu(), labels.detach().long().cpu()


def shrunk(x: Tensor) -> Tensor:
    """Shrink pictures to at most 32 pixels a side by averaging areas."""
    if x.ndim != 4 or max(x.shape[2:]) <= LARGEST:
        return x
    size = [min(side, LARGEST) for side in x.shape[2:]]
    return torch.cat([functional.interpolate(x[rows], size=size, mode="area") for rows in chunks(len(x), AT_ONCE)])


def _network(shape: torch.Size) -> nn.Module:
    """Three convolutions, or two layers for points, and a layer of 64."""
    if len(shape) != 3:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), 2 * WIDTH), nn.SiLU(), *_last(2 * WIDTH))
    pool = [nn.AvgPool2d(2)] if min(shape[1:]) >= 16 else []
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1),
        nn.SiLU(),
        *pool,
        nn.Conv2d(32, WIDTH, 3, padding=1),
        nn.SiLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        *_last(4 * WIDTH),
    )


def _last(inputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, WIDTH), nn.SiLU()]


def _affordable(network: nn.Module, x: Tensor) -> int:
    """How many steps a minute allows, by counting multiplications: the same number on every machine."""
    work = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal work
        weight = layer.weight
        assert isinstance(weight, Tensor)
        work += out[0, 0].numel() * weight.numel()

    layers = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]  # type: ignore[attr-defined]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return min(max(int(WORK / (BATCH * work)), STEPS[0]), STEPS[1])


def _train(network: nn.Module, images: Tensor, labels: Tensor, *, steps: int, seed: int) -> None:
    """Minimise the cross entropy by AdamW on batches that are functions of (seed, step)."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=max(steps, 2))
    for step in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=generator(seed, 2, step))
        loss = functional.cross_entropy(network(images[rows]), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
