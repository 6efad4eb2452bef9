"""The command `study support`: do samples of high energy lie where training images are sparse?"""

from typing import Any

import torch

from kinetic.cli.options import parsed
from kinetic.cli.study_options import finish, study_parser, subject_of
from kinetic.data import FlowDataModule
from kinetic.errors import KineticError
from kinetic.flow.seeds import check_count
from kinetic.metrics.extractors import CHOICES, check_name
from kinetic.metrics.support import RULES
from kinetic.samples.references import COMPONENTS, Split
from kinetic.studies.support import supported
from kinetic.studies.support_findings import support_findings

EXAMPLES = """examples:
  kinetic study support RUN
  kinetic study support RUN --features pixels --features timm:resnet18@FILE --neighbors 10"""


def study_support(args: list[str]) -> None:
    """Correlate energies of samples with their support by training images."""
    options = parsed(_parser(), args)
    bandwidth = _bandwidth(options.bandwidth)
    k, limit = check_count(options.neighbors, "--neighbors"), check_count(options.limit, "--limit")
    for name in options.features:
        check_name(name)
    subject = subject_of("support", options)
    names = options.features or _default(subject.data)
    there = subject.data.num_training if options.split == "training" else subject.data.num_held_out  # before drawing
    drawing = subject.draw()
    if subject.first:
        found = supported(subject, drawing, names, k=k, bandwidth=bandwidth, limit=limit, split=options.split)
        protocol = {"neighbors": k, "bandwidth": bandwidth, "split": options.split, "real_images": min(limit, there)}
        finish(subject, support_findings(subject, found, **protocol))


def _parser() -> Any:
    made = study_parser("support", "Correlate energies with how well training images support a sample.", EXAMPLES)
    group = made.add_argument_group("support")
    group.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a feature space, any number of times: {CHOICES} "
        "(None: pixels, pca of at most 64 and a quarter of the numbers, classifier where there are labels)",
    )
    group.add_argument("--neighbors", type=int, default=5, metavar="K", help="which nearest training image")
    group.add_argument(
        "--bandwidth", type=str, default="scott", metavar="H", help=f"of the kernel: {', '.join(RULES)}, or a number"
    )
    group.add_argument("--limit", type=int, default=50_000, metavar="N", help="real images at most")
    group.add_argument(
        "--split",
        type=Split,
        default="training",
        help="support by training images, or by held-out ones, whose density is not that of copies",
    )
    return made


def _bandwidth(text: str) -> float | str:
    if text in RULES:
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise KineticError(f"--bandwidth must be {', '.join(RULES)} or a number above 0, got {text!r:.40}")
    return value


def _default(data: FlowDataModule) -> list[str]:
    """Pixels, fewer principal components than that, whose axes alone would change nothing, and a classifier."""
    size = torch.Size(data.shape).numel()
    count = min(COMPONENTS, size // 4, data.num_training - 1)
    labelled = data.num_classes is not None
    return ["pixels", *([f"pca:{count}"] if count > 0 else []), *(["classifier"] if labelled else [])]
