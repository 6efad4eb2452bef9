"""Data sets as LightningDataModules, named in a configuration by their `class_path`."""

from kinetic.data.base import FlowDataModule
from kinetic.data.digits import Digits

__all__ = ["Digits", "FlowDataModule"]
