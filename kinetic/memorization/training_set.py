"""The training images that samples are compared with: one door for validation, sampling and whatever audits them.

It knows what counts as a copy (the threshold), what real images would count as (the null), which deterministic views
belong to an image (its mirror image, where training flips), and what the images are called.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetic.data import FlowDataModule
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.images import ImageSet
from kinetic.memorization.copies import THRESHOLD, measure, prepare, summarize
from kinetic.memorization.keeping import Keeping, precision_of, rounded
from kinetic.memorization.views import View, check_space, is_local, space_of_data, view_of
from kinetic.metrics.reference import ReferenceIndex
from kinetic.models.autoencoder import Decode
from kinetic.ranks import gather_rows, place, together
from kinetic.store.runs import CONFIG
from kinetic.store.settings import SavedConfig
from kinetic.trust import STRANGER, Trust

Range = tuple[float, float]
MARGIN = 0.05  # of the reference's span: how far training images may reach beyond it
FACTOR = 8.0  # how many times wider than theirs its span may be
CACHE_BYTES = 2**30
NULL_SAMPLES = 1000


@dataclass(frozen=True)
class Null:
    """F_mem of held-out real images, what a model that copies nothing would have."""

    f_mem: float
    high: float  # of its 95 % interval
    count: int


@dataclass(frozen=True)
class Keep:
    """How training images are kept: in which precision, and in a folder where they do not stay in memory."""

    precision: str = "float32"
    folder: Path | None = None


class _Listed(Mapping[int, str]):
    """Names in a list, by number."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self.names):
            raise KeyError(number)
        return self.names[number]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.names)))

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class TrainingSet:
    """The training images, indexed, and by which rule a sample is a copy of one.

    Attributes:
        index: of the images, with their mirror images where training flips.
        names: of the images by number.
        threshold: a sample is a copy where d₁/d₂ is below it.
        null: the same of held-out images; None where there are none.
        view: what images are compared as.
    """

    index: ReferenceIndex
    names: Mapping[int, str]
    threshold: float = THRESHOLD
    null: Null | None = None
    view: View = View("pixels")  # noqa: RUF009 (frozen)

    @classmethod
    def of(
        cls,
        data: Any,
        *,
        threshold: float = THRESHOLD,
        null_samples: int | None = NULL_SAMPLES,
        device: torch.device | str = "cpu",
        cache_bytes: int = CACHE_BYTES,
        seen: Range | None = None,
        view: View | None = None,
        keep: Keep | None = None,
        shared: bool = False,
    ) -> "TrainingSet":
        """Index what `data.reference()` yields, and compare at most `null_samples` of `data.held_out()` with it.

        Images stay on `device` if they take no more than `cache_bytes`. `seen` is the range of images in training,
        `view` what they are compared as, and `keep` says how they are kept. With `shared`, what all processes call
        together, each one of them indexes and compares with its share of the images, if these can be shared out.
        Raises KineticError where there is no reference, fewer than two images, or images of another range.
        """
        if not callable(getattr(data, "reference", None)):
            raise KineticError("the trainer has no datamodule with a reference() to the training images")
        view = View(space_of_data(data)) if view is None else view
        keep = Keep() if keep is None else keep
        flip = isinstance(data, FlowDataModule) and data.flip and view.compute is None
        shared = shared and isinstance(data, FlowDataModule) and data.num_training >= place()[1] > 1
        spot = torch.device(device)
        spot = torch.device("cpu") if spot.type == "mps" else spot  # distances need float64
        images = _images_of(data, view, keep, flip=flip, shared=shared).kept(spot, cache_bytes)
        index = prepare(ReferenceIndex.build(images, flip=flip, device=spot, shared=shared))
        together(lambda: _check_range(seen if view.compute is None else None, (index.low, index.high)), shared=shared)
        names = _Listed(data.subset_ids) if isinstance(data, FlowDataModule) else images.names
        made = cls(index, names, threshold, None, view)
        return replace(made, null=_null_of(data, made, limit=null_samples))

    def measure(self, samples: Tensor, seeds: Tensor) -> Tensor:
        """Compare samples [B, ...] with the images: rows [B, 7] float64 of `copies.COLUMNS`, on the CPU.

        With a shared index all processes call this, each with samples of its own, or none.
        """
        none = torch.empty(0, *self.index.shape, device=samples.device)
        viewed = together(lambda: self.view(samples) if len(samples) else none, shared=self.index.shared)
        return measure(viewed, self.index, seeds, threshold=self.threshold).cpu()

    def name(self, number: int) -> str:
        """Name of a training image: as the data module calls it, else its number; empty for none (-1)."""
        return self.names.get(number, str(number)) if number >= 0 else ""

    def shown(self, samples: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [n, ...] in this view, and `beside` them; with a shared index all processes ask for the same."""
        own = together(lambda: self.view(samples), shared=self.index.shared)
        return own, self.beside(own, numbers)

    def beside(self, samples: Tensor, numbers: Tensor) -> Tensor:
        """Fetch training images by number [n] -> [n, ...], mirrored where that is nearer to the samples [n, ...].

        Both are as the view has them.
        """
        images = self.index.images(numbers).cpu()
        if not self.index.flip:
            return images
        straight, mirrored = ((view - samples).flatten(1).norm(dim=1) for view in (images, images.flip(-1)))
        images[mirrored < straight] = images[mirrored < straight].flip(-1)
        return images

    def first(self, count: int) -> Tensor:
        """Fetch the first `count` images [n, ...], for a picture."""
        return self.index.images(self.index.ids.unique()[:count]).cpu()


def open_training_set(
    run: Path,
    *,
    data: FlowDataModule | None = None,
    device: torch.device | str = "cpu",
    trust: Trust = STRANGER,
    space: str | None = None,
    decode: Decode | None = None,
) -> TrainingSet:
    """Open the training set of a run as its own validations saw it; KineticError if it is another one by now.

    `data` is the run's data set where it is open already. Distances are measured in `space`, see `views`: None is that
    of the run's validations; `decode` decodes latents.
    """
    settings = SavedConfig.read(run)
    threshold = settings.memorization("threshold")
    limit = settings.memorization("null_samples", NULL_SAMPLES)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | None) or threshold != threshold:
        raise KineticError(f"{run / CONFIG}: the threshold of copies should be a number, and is {threshold!r:.40}")
    if isinstance(limit, bool) or not isinstance(limit, int | None) or (limit or 0) < 0:
        raise KineticError(f"{run / CONFIG}: null_samples should be a whole number or null, and is {limit!r:.40}")
    data = open_data(run, trust) if data is None else data
    name = settings.memorization("space") if space is None else space
    if name is not None:
        check_space(str(name))
    if space is None and name is not None and not is_local(str(name)):
        raise KineticError(f"{run.name} measures F_mem in {name}: ask for that by name, as it may fetch or run a file")
    return TrainingSet.of(
        data,
        view=view_of(None if name is None else str(name), data, decode=decode, device=device, trust=trust),
        threshold=THRESHOLD if threshold is None else float(threshold),
        null_samples=limit,
        device=device,
    )


def _images_of(data: Any, view: View, keep: Keep, *, flip: bool, shared: bool) -> ImageSet:
    """The training images of a data module as the view has them, or this process's share of them."""
    dtype = precision_of(keep.precision)
    options: dict[str, Any] = {"flips": False} if flip else {}
    if shared:
        options |= dict(zip(("rank", "world"), place(), strict=True))
    source = view.source(partial(data.reference, **options))
    plain = ImageSet.of(source, "the reference")
    if dtype == torch.float32 and keep.folder is None:
        return plain

    def passed() -> Iterator[tuple[Tensor, Tensor]]:
        yield from ((rounded(torch.as_tensor(images), ids, dtype), ids) for images, ids in plain.parts())

    if keep.folder is None:
        made = ImageSet.of(passed, "the reference")
        made.names = plain.names
        return made
    if not isinstance(data, FlowDataModule):
        raise KineticError(f"only a data module of kinetic can have its reference kept in {keep.folder}")
    data.setup()
    views = 2 if data.flip and not flip else 1
    about = {
        "data": data.name,
        "space": view.space,
        "latents": None if data.latents is None else data.latents.to_dict(),
        "images": hashlib.sha256("\n".join(data.subset_ids).encode()).hexdigest(),
    }
    keeping = Keeping(keep.folder, about, total=data.num_training, dtype=dtype, shared=shared, views=views)
    return keeping.images(passed)


def _null_of(data: Any, training: TrainingSet, *, limit: int | None) -> Null | None:
    """Compare the images of `data.held_out(limit)` with the training images; None where there are none."""
    if limit == 0 or not callable(getattr(data, "held_out", None)):
        return None
    index, view, shared = training.index, training.view, training.index.shared
    share = dict(zip(("rank", "world"), place(), strict=True)) if shared else {}
    # Whole, as a streamed reference is read at each comparison.
    source = view.source(partial(data.held_out, limit, **share))
    images = together(lambda: ImageSet.of(source, "the held-out set").whole(), shared=shared)
    images = images if len(images) else torch.empty(0, *index.shape)
    numbers = torch.arange(len(images))
    if shared:
        numbers = numbers + sum(map(len, gather_rows(numbers)[: place()[0]]))
    rows = measure(images, index, numbers, threshold=training.threshold).cpu()
    result = summarize(torch.cat(gather_rows(rows)) if shared else rows)
    return Null(result.f_mem, result.high, result.total) if result.total else None


def _check_range(seen: Range | None, have: Range) -> None:
    """Training images must lie in the reference's range, which must not be much wider."""
    if seen is None:
        return
    span, slack = have[1] - have[0], MARGIN * (have[1] - have[0])
    inside = have[0] - slack <= seen[0] and seen[1] <= have[1] + slack
    if not inside or span > FACTOR * max(seen[1] - seen[0], 1e-12):
        raise KineticError(
            f"the reference has values in [{have[0]:.3g}, {have[1]:.3g}], but the images trained on lie in "
            f"[{seen[0]:.3g}, {seen[1]:.3g}]; let reference() yield them in the range of training"
        )
