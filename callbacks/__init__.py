"""What happens beside training: measuring, drawing, saving and telling."""

from kinetic.callbacks.checkpoints import Checkpoints
from kinetic.callbacks.kpe import KPECallback
from kinetic.callbacks.memorization import MemorizationCallback
from kinetic.callbacks.progress import RunProgress
from kinetic.callbacks.report import ReportCallback
from kinetic.callbacks.schedule import LogSpacedValidation
from kinetic.callbacks.stopping import StopCleanly

__all__ = [
    "Checkpoints",
    "KPECallback",
    "LogSpacedValidation",
    "MemorizationCallback",
    "ReportCallback",
    "RunProgress",
    "StopCleanly",
]
