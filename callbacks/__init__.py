"""What happens beside training: measuring, drawing, saving and telling."""

from .artifacts import Artifacts
from .balance import BalanceCallback
from .checkpoints import Checkpoints
from .kpe import KPECallback
from .memorization import MemorizationCallback
from .onset import StopAfterOnset
from .progress import RunProgress
from .quality import QualityCallback
from .report import ReportCallback
from .schedule import LogSpacedValidation
from .stopping import StopCleanly

__all__ = [
    "Artifacts",
    "BalanceCallback",
    "Checkpoints",
    "KPECallback",
    "LogSpacedValidation",
    "MemorizationCallback",
    "QualityCallback",
    "ReportCallback",
    "RunProgress",
    "StopAfterOnset",
    "StopCleanly",
]
