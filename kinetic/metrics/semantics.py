"""How clearly a sample shows a class: the score of the class it was asked for, and its margin over the best other one.

Scores come from CLIP, 100 times the cosine between an image and a sentence about a class (Radford et al. 2021; Hessel
et al. 2021, arXiv 2104.08718, without cutting off below 0), or offline from a classifier's logits: the log-probability
of the class, whose margin is the same as that of the logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetic.errors import KineticError, first_line
from kinetic.metrics.classifier import Classifier
from kinetic.metrics.features import pictures
from kinetic.tensors import chunks

PROMPT = "a photo of a {}"
REMEDY = "uv sync --extra clip, or pip install kinetic-flow[clip]"
FILES = ("*.json", "*.txt", "*.safetensors")  # of a CLIP on the hub: no pickles, no programs
AT_ONCE = 64  # images


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Something that scores images for every class.

    Attributes:
        name: what gives the scores.
        unit: what a score is.
        compute: images float32 [n, ...] in [-1, 1] -> scores [n, classes].
        classes: how many there are.
        note: what a reader should know of it.
    """

    name: str
    unit: str
    compute: Callable[[Tensor], Tensor]
    classes: int
    note: str = ""

    def scores(self, images: Tensor) -> Tensor:
        """Scores float32 [N, classes] on the CPU; NaN for an image that is not finite."""
        found = []
        for rows in chunks(len(images), AT_ONCE):
            part = images[rows]
            finite = part.flatten(1).isfinite().all(1).cpu()
            with torch.no_grad():
                scores = self.compute(part.nan_to_num(0, 0, 0)).float().cpu()
            found.append(scores.masked_fill(~finite[:, None], torch.nan))
        return torch.cat(found)


@dataclass(frozen=True)
class Semantics:
    """Of every sample: the class that is judged, its score, and its score minus the best of the others, all [N]."""

    prompted: Tensor
    score: Tensor
    margin: Tensor


def semantics_of(scores: Tensor, labels: Tensor | None = None) -> Semantics:
    """Judge scores [N, classes] by the classes `labels` [N] that were asked for, or by the one that scores highest."""
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise KineticError(f"a margin needs scores of at least 2 classes, got {list(scores.shape)}")
    chosen = scores.nan_to_num(-torch.inf).argmax(1) if labels is None else labels.to(scores.device).long()
    if len(chosen) != len(scores) or bool(((chosen < 0) | (chosen >= scores.shape[1])).any()):
        raise KineticError(f"each sample needs a class of 0 to {scores.shape[1] - 1}")
    own = scores.gather(1, chosen[:, None])
    others = scores.scatter(1, chosen[:, None], -torch.inf).amax(1)
    return Semantics(chosen, own[:, 0], own[:, 0] - others)


def classifier_scorer(model: Classifier, *, device: torch.device | str = "cpu") -> Scorer:
    """Score by the log-probability of each class."""
    model = model.to(device)

    def compute(x: Tensor) -> Tensor:
        return model.logits(x.to(device)).log_softmax(1)

    classes = int(model.head.out_features)  # type: ignore[arg-type]
    note = f"{100 * model.accuracy:.1f} % of {model.tested:,} held-out images classified right"
    return Scorer(name="classifier", unit="log-probability", compute=compute, classes=classes, note=note)


def prompts_of(names: Sequence[str], template: str = PROMPT) -> list[str]:
    """A sentence for each class, its name in place of {}."""
    if template.count("{}") != 1 or template.replace("{}", "").count("{") or template.replace("{}", "").count("}"):
        raise KineticError(f"a prompt has one {{}} where the name of a class goes, as {PROMPT!r}; got {template!r:.80}")
    return [template.replace("{}", name) for name in names]


def clip_scorer(
    folder: Path, prompts: Sequence[str], *, name: str | None = None, device: torch.device | str = "cpu"
) -> Scorer:
    """Score by the CLIP whose files lie in `folder`: safetensors alone, and no program of its own is run.

    Pictures have 1 or 3 channels, and are prepared as the model's own processor does.
    """
    model, processor = _opened(folder, name or folder.name)
    model.eval().requires_grad_(False).to(device)
    told = processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True).to(device)
    texts = _unit(model.get_text_features(**told))

    def compute(x: Tensor) -> Tensor:
        bytes_ = ((pictures(x, "CLIP") + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        ready = processor(images=list(bytes_), return_tensors="pt")
        return 100 * _unit(model.get_image_features(pixel_values=ready["pixel_values"].to(device))) @ texts.T

    return Scorer(name=name or folder.name, unit="100 cos", compute=compute, classes=len(prompts))


def _opened(folder: Path, name: str) -> tuple[Any, Any]:
    try:
        from transformers import CLIPModel, CLIPProcessor
    except ImportError as error:
        raise KineticError(f"CLIP needs the package transformers ({first_line(error)}): {REMEDY}") from None
    how: Any = {"local_files_only": True, "trust_remote_code": False}
    try:
        return CLIPModel.from_pretrained(folder, use_safetensors=True, **how), CLIPProcessor.from_pretrained(
            folder, **how
        )
    except Exception as error:  # a damaged or foreign folder fails in many ways
        raise KineticError(f"{name} holds no CLIP in safetensors: {first_line(error)}") from None


def _unit(features: Any) -> Tensor:
    """Features [n, F] of length one; newer versions of transformers wrap them."""
    values: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return values.float() / values.float().norm(dim=1, keepdim=True)
