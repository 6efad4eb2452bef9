"""What a run shows, in plain sentences: when copying began, how far it went, what the energies did, what to do next."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinetic.metrics.statistics import THRESHOLD, finite_mean
from kinetic.report.page import paragraph
from kinetic.report.sources import number
from kinetic.text import percent, short


def copy_rule(threshold: float = THRESHOLD) -> str:
    """Say when a sample counts as a copy."""
    usual = abs(threshold - 1 / 3) < 1e-9
    share, rule = ("a third", "1/3") if usual else (f"{threshold:.3g} times", f"{threshold:.3g}")
    return (
        f"A sample counts as a copy when its nearest training image is less than {share} as far away as the "
        f"second-nearest one (d₁/d₂ < {rule}); F_mem is the fraction of such samples."
    )


def where(step: float, epoch: float = math.nan) -> str:
    """Name a validation: its step and, where known, its epoch."""
    known = f" (epoch {epoch:,.0f})" if math.isfinite(epoch) else ""
    return f"step {step:,.0f}{known}"


def onset_words(onset: Mapping[str, Any], last_step: float, last_f_mem: float, *, threshold: float = THRESHOLD) -> str:
    """Explain the onset, or its absence, and what follows from it; `onset` is the content of onset.json."""
    step = number(onset.get("step"))
    if math.isfinite(step):
        return _found(onset, step, last_step, last_f_mem, threshold)
    if not math.isfinite(last_f_mem):
        return paragraph("No onset of copying is recorded, and F_mem has not been measured yet.", "lead")
    return (
        paragraph(f"No sign of copying up to {where(last_step)}.", "lead")
        + paragraph(
            f"At no validation did the 95 % interval of F_mem rise above that of held-out real images, which the model "
            f"has never seen; the last F_mem is {percent(last_f_mem)}. {copy_rule(threshold)}"
        )
        + paragraph("What to do next: draw images with `sample.py`, or train longer and look again.")
    )


def _found(onset: Mapping[str, Any], step: float, last_step: float, last_f_mem: float, threshold: float) -> str:
    f_mem, low, high, null, null_high = (
        number(onset.get(name)) for name in ("f_mem", "low", "high", "null_f_mem", "null_high")
    )
    later = ""
    if last_step > step and math.isfinite(last_f_mem):
        later = f" By the last validation, {where(last_step)}, F_mem is {percent(last_f_mem)}."
    return (
        paragraph(f"The model starts to copy its training images at {where(step, number(onset.get('epoch')))}.", "lead")
        + paragraph(
            f"There, {percent(f_mem)} of the generated samples are copies (95 % interval {percent(low)} to "
            f"{percent(high)}). Of held-out real images, which the model has never seen, {percent(null)} would be "
            f"taken for copies (upper limit {percent(null_high)}). This is the first validation whose interval lies "
            f"wholly above that of the held-out images, so chance is a poor explanation.{later}"
        )
        + paragraph(copy_rule(threshold))
        + paragraph(_advice(onset.get("checkpoint")))
    )


def _advice(checkpoint: Any) -> str:
    if checkpoint:
        name = str(checkpoint).replace("`", "'")
        kept = f"the weights of the last validation before the onset are kept in `{Path(name).name}`"
    else:
        kept = "no checkpoint from before the onset was kept"
    return (
        f"What to do next: {kept}. To draw from the final weights with a softer landing, use `sample.py --kts "
        "balanced`; `sample.py --compare off,balanced,landing` shows what each setting changes on the same seeds."
    )


def energy_words(energies: Mapping[int, Any], late: Mapping[int, Any]) -> str:
    """Say how mean energy and late fraction moved from the first to the last validation, {step: values [N]}."""
    means = {step: value for step, values in energies.items() if math.isfinite(value := finite_mean(values))}
    if not means:
        return paragraph("No sample has a finite energy.")
    first, last = min(means), max(means)
    if first == last:
        return paragraph(f"The mean energy at {where(last)}, the only validation so far, is {short(means[last])}.")
    change = means[last] / means[first] - 1 if means[first] else math.nan
    verb = "rose" if means[last] > means[first] else "fell"
    text = (
        f"The mean energy {verb} from {short(means[first])} at {where(first)} to {short(means[last])} at {where(last)}"
    )
    text += f" ({100 * change:+.1f} %)" if math.isfinite(change) else ""
    parts = [finite_mean(late[step]) if step in late else math.nan for step in (first, last)]
    if all(map(math.isfinite, parts)):
        text += f"; the share spent after τ went from {percent(parts[0])} to {percent(parts[1])}"
    return paragraph(text + ".")


def imported_words(origin: Any) -> str:
    """Where an imported run came from, and how it is measured; nothing for a run that was trained here."""
    if not isinstance(origin, dict):
        return ""
    text = f"Imported from {origin.get('file')!s:.200}, a checkpoint of {origin.get('kind')!s:.40}."
    more = "It was trained elsewhere. Draw from it with sample.py: each folder of samples has a report of its own."
    return paragraph(f"{text} {more}", "lead")
