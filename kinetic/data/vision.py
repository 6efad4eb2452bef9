"""The data sets of torchvision that the field trains on."""

from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import torch
import torchvision.datasets
from torch import Tensor

from kinetic.data.base import FlowDataModule
from kinetic.data.folders import FilePool
from kinetic.data.images import fit_all
from kinetic.data.options import switch, text
from kinetic.data.pools import ArrayPool, Pool, Source
from kinetic.errors import KineticError
from kinetic.trust import ANY

ARRAYS = {"cifar10": "CIFAR10", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
DATASETS = (*ARRAYS, "celeba")
MISSING = "pass --data.download true or --data.root FOLDER"  # how `train` fetches or finds one


class Vision(FlowDataModule):
    """CIFAR-10, MNIST, Fashion-MNIST (ten classes each) or CelebA (aligned faces, no classes), with their test splits.

    An id is data set, split and row, or for CelebA the file name.
    """

    def __init__(
        self,
        *,
        dataset: Literal["cifar10", "mnist", "fashion_mnist", "celeba"] = "cifar10",
        root: str = "data",
        download: bool = False,
        **common: Any,
    ) -> None:
        """Say which data set, the folder it lies in (torchvision's layout), and whether to fetch it if it does not."""
        super().__init__(**common)
        if dataset not in DATASETS:
            raise KineticError(f"dataset={dataset!r} is unknown: choose one of {', '.join(DATASETS)}")
        text("root", root)
        switch("download", download)
        self.name, self.root, self.download = dataset, root, download

    @property
    def fetches(self) -> bool:
        """Whether files may be downloaded: never on behalf of a saved configuration."""
        return self.download and self.trust.sources == ANY

    def prepare_data(self) -> None:
        """Fetch the files, in one process of each machine."""
        if self.fetches:
            self._open(train=True)
            self._open(train=False)

    def load(self) -> Source:
        """Read the arrays of the small ones; list the files of CelebA."""
        train, test = self._open(train=True), self._open(train=False)
        if self.name == "celeba":
            return Source(self._files(train), self._files(test))
        names = tuple(train.classes)
        return Source(self._array(train, "train"), self._array(test, "test"), len(names), names)

    def _open(self, *, train: bool) -> Any:
        try:
            if self.name == "celeba":
                return torchvision.datasets.CelebA(self.root, "train" if train else "test", download=self.fetches)
            return getattr(torchvision.datasets, ARRAYS[self.name])(self.root, train=train, download=self.fetches)
        except (URLError, ConnectionError, TimeoutError) as error:
            raise KineticError(
                f"cannot download {self.name} ({error}): check the network, or copy it to {self.root}/"
            ) from None
        except (RuntimeError, FileNotFoundError) as error:
            if self.fetches:
                reason = " ".join(str(error).split())
                raise KineticError(f"cannot download {self.name} ({reason}): copy its files to {self.root}/") from None
            if self.download:
                raise KineticError(
                    f"{self.name} not found in {self.root}/, and nothing is downloaded for a saved configuration:"
                    " copy its files there"
                ) from None
            raise KineticError(f"{self.name} not found in {self.root}/: {MISSING}") from None
        except Exception as error:  # what damaged files make torchvision raise is no fixed list
            raise self._damaged(" ".join(str(error).split())[:200] or type(error).__name__) from None

    def _array(self, data: Any, split: str) -> Pool:
        images: Tensor = torch.from_numpy(np.asarray(data.data))
        labels = torch.as_tensor(data.targets)
        if images.dtype != torch.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
            raise self._damaged(f"its {split} images are {images.dtype} {list(images.shape)}")
        if labels.shape != images.shape[:1]:
            raise self._damaged(f"it has {len(images)} {split} images and labels of shape {list(labels.shape)}")
        if int(labels.min()) < 0 or int(labels.max()) >= len(data.classes):
            raise self._damaged(f"a {split} label is outside 0 to {len(data.classes) - 1}")
        images = images.unsqueeze(-1) if images.ndim == 3 else images
        ids = [f"{self.name}/{split}/{i:05d}" for i in range(len(images))]
        return ArrayPool(fit_all(images, size=self.size, grayscale=self.grayscale), ids=ids, labels=labels.long())

    def _damaged(self, reason: str) -> KineticError:
        return KineticError(
            f"the files of {self.name} in {self.root}/ are damaged ({reason}):"
            " remove them and pass --data.download true"
        )

    def _files(self, data: Any) -> Pool:
        folder = Path(data.root) / data.base_folder / "img_align_celeba"
        channels = 1 if self.grayscale else 3
        return FilePool(folder, list(data.filename), channels=channels, size=self.size, workers=self.num_workers)
