"""The command `tune`: the shaping that suits a run best, against controls at equal cost."""

import sys
from dataclasses import replace
from typing import Any

from kinetic.advice import command
from kinetic.cli.options import parsed
from kinetic.cli.quiet import quiet
from kinetic.cli.study_options import finish, study_parser, subject_of
from kinetic.errors import KineticError
from kinetic.flow.shaping import KTS
from kinetic.memorization.earlier import kept_checkpoints
from kinetic.metrics.extractors import CHOICES
from kinetic.studies.controls import CHECKPOINT, DIVIDED, STOPPED, at_checkpoints
from kinetic.studies.grids import OFF, Group
from kinetic.studies.kts import measured
from kinetic.studies.setting import Setting
from kinetic.studies.subject import Drawing, Subject
from kinetic.studies.tune import Goal, Ranked, Search, noise_levels, noises, shapings, stops
from kinetic.studies.tune_findings import Tuned, findings_of
from kinetic.studies.tuned import write_tuned

BUDGET = 300_000
CHECKPOINTS = 8  # that are tried as controls


def tune(args: list[str]) -> None:
    """Find the shaping that suits a run: `[RUN] [--goal copies|quality] [--budget N] ...`."""
    quiet()
    options = parsed(_parser(), args)
    goal = _goal(options)
    subject = subject_of("tune", options)
    training_set = subject.training_set  # both are needed, and looked for before anything is drawn
    judge = subject.judge(options.features)
    search = Search(subject, goal, training_set, judge, budget=options.budget)
    off = Setting(sampler=replace(subject.sampler, kts=KTS()))
    levels = noise_levels(training_set)
    shaped = shapings(subject.sampler, search.affordable)
    controls = {**_checkpoints(subject, off), **stops(subject.sampler, max(3, search.affordable - CHECKPOINTS))}
    searches = {
        "shapings": search.run(shaped, off, into="shapings"),
        "controls": search.run(controls, off, into="controls", levels=levels),
    }
    tried = {**shaped, **controls}
    best = subject.trainer.strategy.broadcast(_best(searches) if subject.first else [])
    drawing = subject.draw({OFF: off, **{name: tried[name] for name in best}})
    if subject.first:
        tuned = _judged(drawing, searches, goal, training_set=training_set, judge=judge, levels=levels)
        written = _write(options, subject, tuned)
        more: dict[str, Any] = {"judge": judge, "budget": options.budget, "written": written}
        finish(subject, findings_of(subject, tuned, searches, **more))


def _parser() -> Any:
    made = study_parser("tune", "Find the shaping that suits a run best, against controls.", command="kinetic")
    group = made.add_argument_group("what is looked for")
    group.add_argument("--goal", type=str, default="copies", metavar="WHAT", help="least copies, or best quality")
    group.add_argument("--tolerance", type=float, default=0.05, metavar="S", help="copies: loss of quality, of fd")
    group.add_argument("--f-mem", type=float, default=0.05, metavar="S", help="quality: F_mem that is allowed")
    group.add_argument("--budget", type=int, default=BUDGET, metavar="N", help="network evaluations of each search")
    group.add_argument("--features", type=str, metavar="NAME", help=f"{CHOICES} (None: pca:64)")
    return made


def _goal(options: Any) -> Goal:
    if options.goal not in ("copies", "quality"):
        raise KineticError(f"--goal is copies or quality, got {options.goal!r:.80}")
    if options.tolerance < 0 or not 0 <= options.f_mem <= 1:
        raise KineticError("--tolerance is at least 0 and --f-mem a share in [0, 1]")
    return Goal(kind=options.goal, tolerance=options.tolerance, f_mem=options.f_mem)


def _checkpoints(subject: Subject, off: Setting) -> dict[str, Setting]:
    """Earlier checkpoints of the run, spread over those that were kept."""
    step = subject.origin.identity.get("step")
    if subject.origin.run is None or step is None:
        return {}
    kept = [(at, path) for at, path in kept_checkpoints(subject.run).items() if at < step]
    some = dict(kept[:: max(1, -(-len(kept) // CHECKPOINTS))])
    weights = subject.origin.identity.get("weights")
    return at_checkpoints(some, off.sampler, weights=weights, trust=subject.trust)


def _best(searches: dict[str, Ranked]) -> list[str]:
    """What is drawn again on other seeds: the best shaping, the best checkpoint and the best stop."""
    controls = [name.removesuffix(DIVIDED) for name in searches["controls"].scores]
    families = (CHECKPOINT, STOPPED)
    firsts = [next((name for name in controls if name.startswith(family)), None) for family in families]
    return [searches["shapings"].best, *(name for name in firsts if name is not None)]


def _judged(drawing: Drawing, searches: dict[str, Ranked], goal: Goal, *, levels: list[float], **how: Any) -> Tuned:
    """The best of each family on the seeds of the report, with the best level of noise."""
    name = searches["shapings"].best
    samplers = {one: setting.sampler for one, setting in drawing.job.settings.items()}
    group = Group(name="tuned", settings={OFF: samplers[OFF], name: samplers[name]})
    ranked = list(searches["controls"].scores)
    level = min(levels, key=lambda one: ranked.index(next(iter(noises([one])))))
    return Tuned(name=name, goal=goal, found=measured(drawing, group, derived=noises([level]), **how))


def _write(options: Any, subject: Subject, tuned: Tuned) -> str:
    """Keep the shaping for `--kts tuned`; returns how to use it."""
    if options.empirical or subject.origin.run is None:
        return "The shaping is not kept, as it is not that of a run's network."
    identity, sampler = subject.origin.identity, tuned.found.group.settings[tuned.name]
    about = {"goal": tuned.goal.text, "beats_controls": tuned.beats_controls, "step": identity.get("step")}
    about |= {"weights": identity.get("weights"), "sampler": sampler.to_dict(), "command": ["tune", *sys.argv[2:]]}
    write_tuned(subject.run, sampler.kts, **about)
    return f"Draw with it: `{command('sample')} {subject.run.name} --kts tuned`."
