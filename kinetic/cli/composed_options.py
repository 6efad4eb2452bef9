"""The options of `sample` about fields made of others, and what goes with what."""

from typing import Any

from kinetic.cli.options import CALIBRATED, MEASURED, SHAPINGS, TUNED, compared
from kinetic.errors import KineticError
from kinetic.memorization.earlier import BEFORE_ONSET

HAND_OVER, AWAY = "hand-over", ("away-from-late", "away-from-training")
COMPOSED = (HAND_OVER, *AWAY)
SETTINGS = (*SHAPINGS, *COMPOSED)  # that can be compared

# Options that change a setting, and the settings that they change.
GOES_WITH = {
    "from": (HAND_OVER,),
    "before": COMPOSED,
    "weight": AWAY,
    "between": AWAY,
    "floor": (CALIBRATED,),
}
PRESCRIBED = {  # what a shaping that was measured has no use for
    CALIBRATED: ("alpha", "beta", "k", "launch_form", "landing_form"),
    TUNED: ("alpha", "beta", "tau", "k", "launch_form", "landing_form"),
}


def add_composed(group: Any) -> None:
    """Add the options that name earlier checkpoints, and how much of them is followed when."""
    which = f"{BEFORE_ONSET}|STEP|FILE"
    group.add_argument("--hand-over", type=str, metavar=which, help="follow this earlier checkpoint from --from on")
    group.add_argument("--from", type=float, metavar="T", help="where it takes over, in (0, 1) (None: 0.7)")
    group.add_argument(
        "--away-from",
        type=str,
        metavar="late|training",
        help="follow an earlier checkpoint, guided away from the late one or from the training images' own field",
    )
    group.add_argument(
        "--before", type=str, metavar=which, help=f"the earlier checkpoint of --away-from (None: {BEFORE_ONSET})"
    )
    group.add_argument("--weight", type=float, metavar="W", help="of the guidance (None: late 0.25, training 0.3)")
    group.add_argument(
        "--between", type=str, metavar="A-B", help="times of the guidance (None: late 0-1, training 0.1-0.8)"
    )


def settings_named(options: Any) -> list[str]:
    """The settings that are compared; or of the one that is drawn its shaping, if any, and the field it follows."""
    if options.compare is not None:
        return compared(options.compare, SETTINGS)
    names = [] if options.kts is None else [options.kts]
    if options.hand_over is not None:
        return [HAND_OVER, *names]
    return names if options.away_from is None else [f"away-from-{options.away_from}", *names]


def check_composed(options: Any) -> None:
    """Raise KineticError where these options do not go with the others, or a value cannot be."""
    if options.away_from not in (None, "late", "training"):
        raise KineticError(f"--away-from is late or training, got {options.away_from!r:.80}")
    if options.kts is not None and options.kts not in SHAPINGS:
        raise KineticError(f"unknown KTS preset {options.kts!r:.80}; choose from {', '.join(SHAPINGS)}")
    names = settings_named(options)
    for option, settings in GOES_WITH.items():
        if getattr(options, option) is not None and not set(names) & set(settings):
            raise KineticError(f"--{option} goes with {', '.join(settings)} alone; leave it out")
    for option in PRESCRIBED.get(options.kts, ()):
        if getattr(options, option) is not None:
            raise KineticError(
                f"--{option.replace('_', '-')} and --kts {options.kts} do not go together; leave one out"
            )
    for option in ("cleaner", "features"):
        if getattr(options, option) is not None and options.compare is None:
            raise KineticError(f"--{option} goes with --compare alone; leave it out")
    needy = [name for name in names if name in (*COMPOSED, *MEASURED)]
    if options.empirical and needy:
        raise KineticError(f"--empirical has no {needy[0]}, which needs a trained network; leave one out")
    at = getattr(options, "from")
    if at is not None and not 0 < at < 1:
        raise KineticError(f"--from must lie strictly between 0 and 1, got {at}")
    between(options)


def between(options: Any) -> tuple[float, float] | None:
    """Read the times of the guidance."""
    if options.between is None:
        return None
    try:
        start, end = map(float, options.between.split("-"))
    except ValueError:
        raise KineticError(f"--between takes two times such as 0.1-0.8, got {options.between!r:.80}") from None
    return start, end
