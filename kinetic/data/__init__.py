"""Data sets as LightningDataModules, named in a configuration by their `class_path`."""

from kinetic.data.base import FlowDataModule
from kinetic.data.digits import Digits
from kinetic.data.faces import Faces
from kinetic.data.folders import Folder
from kinetic.data.shards import Shards
from kinetic.data.toy import Toy
from kinetic.data.vision import Vision

__all__ = ["Digits", "Faces", "FlowDataModule", "Folder", "Shards", "Toy", "Vision"]
