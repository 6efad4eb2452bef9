"""One door to everything that turns images into features, by the name that a person writes."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.images import ImageSet, ImageSource
from kinetic.metrics.classifier import Classifier, fit_classifier, shrunk
from kinetic.metrics.features import Extractor
from kinetic.metrics.moments import Moments, moments
from kinetic.metrics.networks import (
    LITE,
    inception_extractor,
    lite_extractor,
    script_extractor,
    timm_extractor,
    weights_hash,
)
from kinetic.trust import STRANGER, Trust

CHOICES = f"pixels, pca:N, classifier, {LITE}, inception[:FILE], timm:NAME[@FILE], torchscript:FILE"
LARGEST_PCA = 4096  # numbers an image, so that a covariance takes at most 128 MiB


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """The training images that `pca:N` and `classifier` are fitted on, with what a classifier needs besides.

    Attributes:
        images: float [N, ...] in [-1, 1], or anything that `ImageSet` reads.
        labels: int64 [N] from 0, or None.
        held_out: images and labels to say the accuracy on; by default a fifth of the training images.
        seed: of the classifier.
    """

    images: ImageSource
    labels: Tensor | None = None
    held_out: tuple[Tensor, Tensor] | None = None
    seed: int = 0


def extractor(
    name: str,
    *,
    training: Training | None = None,
    size: int | None = None,
    device: torch.device | str = "cpu",
    trust: Trust = STRANGER,
) -> Extractor:
    """Make the extractor called `name`; KineticError in one line where that cannot be.

    Args:
        name: one of `CHOICES`.
        training: what `pca:N` and `classifier` are fitted on.
        size: pixels a side that a network of timm or TorchScript is given, instead of the size it was trained at.
        device: where features are computed.
        trust: whether a TorchScript program may run, by its name as it is written here.
    """
    kind, _, rest = name.partition(":")
    if size is not None and (size < 1 or kind not in ("timm", "torchscript", LITE)):
        raise KineticError(f"size={size} does not go with {name}: a size of 1 or more is for timm, torchscript, {LITE}")
    check_name(name)
    if name == "pixels":
        return pixels_extractor(device=device)
    if name == LITE:
        return lite_extractor(size=size, device=device)
    if kind == "inception":
        return inception_extractor(name, device=device)
    if kind == "timm":
        return timm_extractor(name, size=size, device=device)
    if kind == "torchscript":
        return script_extractor(name, trust=trust, size=size, device=device)
    if training is None:
        raise KineticError(f"the features {name} are fitted on training images, and there are none here")
    if kind == "pca":
        return pca_extractor(training.images, int(rest), device=device)
    return classifier_extractor(trained_classifier(training), device=device)


def check_name(name: str) -> None:
    """Raise KineticError unless `extractor` knows features of that name."""
    kind, colon, rest = name.partition(":")
    alone = name in ("pixels", "classifier", LITE) or (kind == "inception" and (rest or not colon))
    if not alone and not (kind in ("timm", "torchscript") and rest) and not (kind == "pca" and rest.isdecimal()):
        raise KineticError(f"unknown features {name!r:.80}; choose from {CHOICES}")


def pixels_extractor(*, device: torch.device | str = "cpu") -> Extractor:
    """Take the values of an image as they are: F = C H W."""

    def compute(x: Tensor) -> Tensor:
        return x.flatten(1)

    return Extractor(
        name="pixels", identity={"kind": "pixels"}, compute=compute, device=torch.device(device), batch=1024
    )


def pca_extractor(images: ImageSource, count: int, *, device: torch.device | str = "cpu") -> Extractor:
    """Project on the first `count` principal components of `images`, fitted in float64; the scores are not whitened.

    The largest entry of every component is positive, so that a fit does not depend on how signs fall.
    """
    source, digest = ImageSet.of(images, "the training set"), hashlib.sha256()
    fitted = moments(_rows(source, digest.update))
    axes, share = _components(fitted, count)
    shape, mean = source.shape, fitted.mean.float().to(device)
    matrix = axes.float().to(device)

    def compute(x: Tensor) -> Tensor:
        if x.shape[1:] != shape:
            raise KineticError(f"pca:{count} was fitted on images of {list(shape)}, got {list(x.shape[1:])}")
        return (x.flatten(1) - mean) @ matrix

    return Extractor(
        name=f"pca:{count}",
        # by what it was fitted on, as the last bits of the components differ from one machine to another
        identity={"kind": "pca", "components": count, "training set": digest.hexdigest()},
        compute=compute,
        device=torch.device(device),
        batch=1024,
        note=f"{100 * share:.1f} % of the variance of {fitted.count:,} training images",
    )


def _rows(source: ImageSet, hashed: Callable[[bytes], None]) -> Iterator[Tensor]:
    """Read images float32 [n, D] as they are hashed."""
    for _, flat, _ in source.chunks(1024, dtype=torch.float32, scaled=True):
        if flat.shape[1] > LARGEST_PCA:
            raise KineticError(f"pca takes images of at most {LARGEST_PCA:,} values, got {flat.shape[1]:,}")
        hashed(flat.contiguous().cpu().numpy().tobytes())
        yield flat.cpu()


def _components(fitted: Moments, count: int) -> tuple[Tensor, float]:
    """The first principal components [D, count] float64, and their share of the variance."""
    most = min(len(fitted.mean), fitted.count - 1)
    if not 1 <= count <= most:
        raise KineticError(f"pca:{count} of {fitted.count} images with {len(fitted.mean)} values: pass pca:1 to {most}")
    values, vectors = torch.linalg.eigh(fitted.covariance)
    axes = vectors.flip(1)[:, :count]
    share = values.flip(0)[:count].sum() / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign(), float(share)


def classifier_extractor(model: Classifier, *, device: torch.device | str = "cpu") -> Extractor:
    """Take the 64 numbers before the last layer of a trained classifier."""
    weights = weights_hash({**model.trunk.state_dict(prefix="trunk."), **model.head.state_dict(prefix="head.")})
    return Extractor(
        name="classifier",
        identity={"kind": "classifier", "weights": weights, "resize": "area, at most 32"},
        compute=model.to(device).features,
        device=torch.device(device),
        batch=512,
        note=f"{100 * model.accuracy:.1f} % of {model.tested:,} held-out images classified right",
    )


def trained_classifier(training: Training) -> Classifier:
    """Train a classifier on training images, which are shrunk as they are read."""
    images = ImageSet.of(training.images, "the training set")
    passes = images.chunks(512, dtype=torch.float32, scaled=True)
    small = torch.cat([shrunk(flat.unflatten(1, images.shape)) for _, flat, _ in passes])
    return fit_classifier(small, training.labels, held_out=training.held_out, seed=training.seed)
