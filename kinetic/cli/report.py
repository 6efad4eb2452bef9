"""The command `report`: the page of a run or of a sampling folder, made again from its files."""

from pathlib import Path

from kinetic.cli.options import Parser
from kinetic.report import write_report, write_sampling_report
from kinetic.store.runs import find_run


def report(args: list[str]) -> None:
    """Write report.html: `[RUN or sampling folder]`, by default of the newest run."""
    parser = Parser(prog="kinetic report", description="Write report.html of a run, or of a folder of samples.")
    parser.add_argument("run", nargs="?", help="name or path of a run, or a folder of samples (default: newest run)")
    parser.add_argument("--root", default="runs", help="folder of all runs (default runs)")
    options = parser.parse_args(args)
    folder = Path(options.run) if options.run else None
    if folder is not None and (folder / "sample.yaml").is_file():
        print(f"Wrote {write_sampling_report(folder)}")
    else:
        print(f"Wrote {write_report(find_run(Path(options.root), options.run))}")
