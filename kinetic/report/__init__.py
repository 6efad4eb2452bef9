"""A run folder, or a folder of samples, to one self-contained report.html."""

from kinetic.report.run import write_report
from kinetic.report.sampling import write_sampling_report

__all__ = ["write_report", "write_sampling_report"]
