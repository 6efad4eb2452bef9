"""The card of an exported model: what it is, what was measured of it, and how to sample from it."""

import math
from typing import Any

import numpy as np

from kinetic.metrics.statistics import THRESHOLD
from kinetic.report.folder import Run
from kinetic.report.sources import Unavailable, by_step, number
from kinetic.report.words import copy_rule
from kinetic.text import percent, short

HEAD = """---
library_name: kinetic
tags:
- flow-matching
- kinetic-path-energy
---
"""


def model_card(config: dict[str, Any], run: Run | None, *, name: str, parameters: int, command: str) -> str:
    """Write the card, Markdown, of a model called `name` whose config.json is `config`; `run` is where it was trained.

    `command` is how `kinetic sample` is typed here.
    """
    facts = [f"| {what} | {said} |" for what, said in [*_facts(config, run, parameters), *_measured(config, run)]]
    sections = [
        HEAD + f"# {name}",
        f"A conditional flow matching model, {_how(config)} with Kinetic. Time runs from noise (0) to data (1).",
        "| | |\n|---|---|\n" + "\n".join(facts),
        f"{copy_rule(THRESHOLD if run is None else run.threshold)} Energies are kinetic path energies ½∫‖v‖² dt, "
        "summed over all dimensions of a sample.",
        "## Use",
        f"```bash\n{command} --checkpoint FOLDER --num 64\n{command} --checkpoint FOLDER --kts balanced\n```",
        "where FOLDER is a download of this model, or in Python, with FOLDER or its name on the hub:",
        "```python\nimport kinetic\n\nfield = kinetic.from_pretrained(FOLDER)\n"
        "drawn = kinetic.draw(field, range(16))\nprint(drawn.energy)\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _how(config: dict[str, Any]) -> str:
    return "imported" if isinstance(config["hyper_parameters"].get("imported"), dict) else "trained and measured"


def _facts(config: dict[str, Any], run: Run | None, parameters: int) -> list[tuple[str, str]]:
    settings, own = config["hyper_parameters"], config["kinetic"]
    network = settings.get("network") or {}
    names, sampler = own.get("class_names"), settings.get("sampler")
    facts = [
        ("network", f"{str(network.get('class_path')).rpartition('.')[2]}, {parameters:,} parameters"),
        ("samples", f"shape {own['sample_shape']}" + (f", classes {', '.join(names)[:300]}" if names else "")),
        ("path and coupling", f"{settings.get('path', 'linear')}, {settings.get('coupling', 'independent')}"),
        ("weights", f"{'averaged' if config['weights'] == 'ema' else 'as trained'}, at step {config['global_step']:,}"),
    ]
    if isinstance(sampler, dict):
        facts.append(("measured by", f"{sampler.get('method', 'euler')}, {sampler.get('steps', 100)} steps"))
    if run is not None and run.settings.at("data", "class_path") is not None:
        where = run.settings
        data = str(where.at("data", "class_path")).rpartition(".")[2]
        count = where.at("data", "init_args", "num_train")
        facts.insert(2, ("data", data + (f", {count:,} training images" if isinstance(count, int) else "")))
    imported = settings.get("imported")
    if isinstance(imported, dict):
        facts.append(("imported from", str(imported.get("kind"))))
    return [(what, said.replace("|", "\\|").replace("\n", " ")) for what, said in facts]


def _measured(config: dict[str, Any], run: Run | None) -> list[tuple[str, str]]:
    """What validations found, as far as they went on up to the step of the weights."""
    if run is None:
        return [("measured", "nothing: it was exported without its run")]
    step = config["global_step"]
    return [
        ("mean energy", _of(lambda: _energy(run, step))),
        ("F_mem", _of(lambda: _f_mem(run, step))),
        ("onset of copying", _of(lambda: _onset(number(run.onset.get("step")), step))),
        ("onset by energy", _of(lambda: _energy_onset(run, step))),
    ]


def _of(found: Any) -> str:
    try:
        return str(found())
    except Unavailable:
        return "not measured"


def _energy(run: Run, step: int) -> str:
    groups = {at: values[np.isfinite(values)] for at, values in by_step(run.kpe, "energy").items() if at <= step}
    if not groups:
        raise Unavailable("no validation came before this checkpoint")
    at = max(groups)
    low, high = np.percentile(groups[at], (25, 75)) if groups[at].size else (math.nan, math.nan)
    mean = short(float(groups[at].mean()) if groups[at].size else math.nan)
    return f"{mean}, quartiles {short(low)} to {short(high)} ({len(groups[at]):,} samples, step {at:,})"


def _f_mem(run: Run, step: int) -> str:
    curve = run.f_mem
    known = [i for i, at in enumerate(curve.steps) if at <= step and math.isfinite(curve.value[i])]
    if not known:
        raise Unavailable("F_mem was not measured before this checkpoint")
    i = known[-1]
    interval = f"95 % interval {percent(curve.low[i])} to {percent(curve.high[i])}, " if curve.low[i] >= 0 else ""
    return f"{percent(curve.value[i])} ({interval}step {int(curve.steps[i]):,})"


def _energy_onset(run: Run, step: int) -> str:
    if not len(run.balance["step"]):  # Unavailable where there was no balance at all
        raise Unavailable("no energy balance was measured")
    return _onset(run.energy_onset, step)


def _onset(onset: float, step: int) -> str:
    if not math.isfinite(onset) or onset > step:
        return f"none up to step {step:,}"
    return f"step {onset:,.0f}"
