"""Any folder of images: flat, or one folder a class."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from kinetic.data.base import FlowDataModule
from kinetic.data.images import read_image
from kinetic.data.names import fault_of_name, shown
from kinetic.data.options import switch, text
from kinetic.data.pools import BatchOrder, LoosePool, Source, stacked
from kinetic.data.progress import progress
from kinetic.data.workers import delivered
from kinetic.errors import KineticError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
OTHER = (".heic", ".heif", ".avif", ".jfif", ".jp2", ".jxl", ".tga", ".psd", ".exr", ".dng", ".pbm", ".pnm")
SPLITS = {"train", "test", "val", "valid", "validation"}


class Files(Dataset[Tensor | ValueError]):
    """Image files by index, as uint8 [H, W, C]; a bad one is returned as the error, for the main process to raise."""

    def __init__(self, root: Path, ids: Sequence[str], *, channels: int, size: int | None) -> None:
        self.root, self.ids, self.channels, self.size = root, ids, channels, size
        self.expected: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Tensor | ValueError:
        try:
            return self.read(index)
        except ValueError as error:
            return error

    def read(self, index: int) -> Tensor:
        """Decode one file; its height and width must be those of the others."""
        path = self.root / self.ids[index]
        image = read_image(path, name=str(path), channels=self.channels, size=self.size)
        if self.expected is not None and tuple(image.shape) != self.expected:
            (height, width, _), (first, second, _) = image.shape, self.expected
            raise KineticError(f"{path} is {width}x{height} pixels but others are {second}x{first}: pass size=N")
        return image


class FilePool(LoosePool):
    """Image files that are decoded whenever they are needed, by `workers` processes (0: by this one)."""

    def __init__(
        self,
        root: Path,
        ids: Sequence[str],
        *,
        labels: Tensor | None = None,
        channels: int = 3,
        size: int | None = None,
        workers: int = 0,
    ) -> None:
        """Serve the files `root / id`; labels are int64 [N]."""
        self.files = Files(root, ids, channels=channels, size=size)
        self.ids, self.labels, self.workers = ids, labels, workers
        height, width, depth = self.files.read(0).shape
        self.files.expected = (height, width, depth)
        self.shape = (depth, height, width)

    def batches(self, plan: BatchOrder, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode the batches that the plan asks for."""
        queue: deque[Tensor] = deque()

        def groups() -> Iterator[list[int]]:
            for number in range(start, stop):
                queue.append(plan.indices(number))
                yield queue[-1].tolist()

        for images in self.some(groups()):
            yield images, queue.popleft()

    def chunks(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Decode the files in order."""
        groups = self.some(part.tolist() for part in indices.split(64))
        yield from stacked((image for group in groups for image in group), size)

    def some(self, groups: Iterable[list[int]]) -> Iterator[Tensor]:
        """Decode groups of files, each uint8 [n, H, W, C]; workers are a few groups ahead."""
        loader = DataLoader(
            self.files,
            batch_sampler=cast(Sampler[list[int]], groups),
            num_workers=self.workers,
            collate_fn=one_tensor,
            generator=torch.Generator(),  # the default one belongs to the network
        )
        for group in delivered(loader, self.workers):
            if isinstance(group, ValueError):
                raise group
            yield group


def one_tensor(images: list[Tensor | ValueError]) -> Tensor | ValueError:
    """Put images into one tensor, in memory that a worker shares; the first error instead where there is one."""
    error = next((image for image in images if isinstance(image, ValueError)), None)
    if error is not None or not images:
        return error or torch.empty(0)
    found: Tensor = default_collate(images)
    return found


class Folder(FlowDataModule):
    """The images under a folder; without `test_path` some are held out. An id is the path within the folder."""

    def __init__(
        self,
        *,
        path: str,
        test_path: str | None = None,
        classes: bool | None = None,
        skip_bad: bool = False,
        **common: Any,
    ) -> None:
        """Say which folder.

        Args:
            path: a folder of images, flat or with one folder for each class.
            test_path: a folder of the same form with held-out images.
            classes: whether sub-folders are classes (by default if there are two or more and no image beside them).
            skip_bad: check every image at the start and leave out those that cannot be decoded, with their count.
            common: see FlowDataModule. Pictures have 3 channels, or 1 with `grayscale`.
        """
        super().__init__(**common)
        text("path", path)
        if test_path is not None:
            text("test_path", test_path)
        if classes is not None:
            switch("classes", classes)
        switch("skip_bad", skip_bad)
        self.path, self.test_path, self.classes, self.skip_bad = path, test_path, classes, skip_bad
        self.name = path

    def load(self) -> Source:
        """List the images, sorted by path; labels count the class folders in alphabetical order."""
        ids = list_images(Path(self.path), skip_bad=self.skip_bad)
        names = self._class_names(ids)
        test = None
        if self.test_path is not None:
            test = self._pool(self.test_path, list_images(Path(self.test_path), skip_bad=self.skip_bad), names)
        return Source(self._pool(self.path, ids, names), test, len(names) if names else None, names)

    def _class_names(self, ids: list[str]) -> tuple[str, ...] | None:
        nested = {i.split("/")[0] for i in ids if "/" in i}
        flat = [i for i in ids if "/" not in i]
        if self.classes is False or (self.classes is None and (len(nested) < 2 or flat)):
            return None
        if flat:
            raise KineticError(f"{self.path}/{flat[0]} is in no class folder: move it into one or pass classes=false")
        if len(nested) > 1 and {n.lower() for n in nested} <= SPLITS:
            first = next((n for n in nested if n.lower() == "train"), min(nested))
            raise KineticError(
                f"the folders in {self.path} look like splits, not classes: pass path={self.path}/{first}"
                " and the other one as test_path, or classes=false to use all images as one set"
            )
        return tuple(sorted(nested))

    def _pool(self, root: str, ids: list[str], names: tuple[str, ...] | None) -> FilePool:
        channels = 1 if self.grayscale else 3
        if self.skip_bad:
            ids = decodable(Path(root), ids, channels)
        labels = None
        if names is not None:
            known = set(names)
            strange = next((i for i in ids if i.split("/")[0] not in known), None)
            if strange is not None:
                raise KineticError(
                    f"{root}/{strange} is of a class that {self.path} lacks: its classes are {', '.join(names)}"
                )
            number = {name: n for n, name in enumerate(names)}
            labels = torch.tensor([number[i.split("/")[0]] for i in ids])
        return FilePool(Path(root), ids, labels=labels, channels=channels, size=self.size, workers=self.num_workers)


def list_images(root: Path, *, skip_bad: bool = False) -> list[str]:
    """Paths of the images under `root`, relative and sorted; links are followed.

    Hidden files and folders and those of macOS (`__MACOSX`) are left out, as are images of kinds that are not read,
    with their count. A folder that cannot be listed, and a name that is not one line of text, is a KineticError; with
    `skip_bad` such names are left out and counted.
    """
    if not os.path.isdir(root):
        what = "is a file" if os.path.lexists(root) else "does not exist"
        raise KineticError(f"folder {shown(str(root))} {what}: pass the path of a folder of images")

    def refuse(error: OSError) -> None:
        raise KineticError(
            f"folder {shown(str(error.filename or root))} cannot be listed ({error.strerror}): mend or remove it"
        ) from None

    found: list[str] = []
    seen: set[str] = set()
    unread: list[str] = []
    strange: list[str] = []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        within = os.path.relpath(folder, root).replace(os.sep, "/")
        for file in files:
            if not file.startswith(".") and file.lower().endswith((*SUFFIXES, *OTHER)):
                name = file if within == "." else f"{within}/{file}"
                known = file.lower().endswith(SUFFIXES)
                (unread if not known else strange if fault_of_name(name) else found).append(name)
    if unread:
        rank_zero_warn(
            f"{len(unread)} images in {shown(str(root))} were left out, such as {shown(min(unread))}:"
            f" looked for {', '.join(SUFFIXES)}"
        )
    if strange and skip_bad:
        rank_zero_warn(
            f"skipped {len(strange)} images in {shown(str(root))} whose names are no text of one line,"
            f" the first: {shown(min(strange))}"
        )
    elif strange:
        raise KineticError(
            f"image {min(strange)[:200]!r} in {shown(str(root))} cannot be used, {fault_of_name(min(strange))}:"
            " rename it or pass skip_bad=true"
        )
    if not found:
        raise KineticError(f"folder {shown(str(root))} holds no images: looked for {', '.join(SUFFIXES)}")
    return sorted(found)


def decodable(root: Path, ids: list[str], channels: int) -> list[str]:
    """Leave out the files that cannot be decoded, and say how many they were."""
    files = Files(root, ids, channels=channels, size=None)
    checked = progress("checking images", "images", over=range(len(ids)), total=len(ids))
    bad = {ids[i] for i in checked if not isinstance(files[i], Tensor)}
    if len(bad) == len(ids):
        raise KineticError(
            f"folder {root} holds no image that can be decoded: {len(bad)} cannot, the first is {min(bad)}"
        )
    if bad:
        rank_zero_warn(
            f"skipped {len(bad)} of {len(ids)} images in {root} that cannot be decoded, the first: {min(bad)}"
        )
    return [i for i in ids if i not in bad]
