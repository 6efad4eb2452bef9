"""The command `export`: a model as a folder that others can open, and on the Hugging Face hub."""

from pathlib import Path

from kinetic.advice import command
from kinetic.cli.options import Parser
from kinetic.errors import KineticError
from kinetic.models.exported import CARD, CONFIG, WEIGHTS
from kinetic.models.exporting import export_checkpoint, push_to_hub
from kinetic.models.hub import check_repository
from kinetic.models.opening import open_checkpoint, run_of
from kinetic.report.card import model_card
from kinetic.report.folder import Run
from kinetic.store.files import write_text
from kinetic.store.runs import LAST, find_run
from kinetic.trust import Trust


def export(args: list[str]) -> None:
    """Export a run: `[RUN] OUT [--checkpoint FILE] [--weights ema|raw] [--push USER/NAME]`."""
    options = _parser().parse_args(args)
    if options.push is not None:
        check_repository(options.push)
    checkpoint, out = _checkpoint(options.run, options.checkpoint, Path(options.root)), Path(options.out)
    trust = Trust().including(tuple(options.trust))
    field = open_checkpoint(checkpoint, weights=options.weights, trust=trust).field  # refuses what cannot be sampled
    config = export_checkpoint(checkpoint, out, weights=options.weights)
    home = run_of(checkpoint)
    parameters = sum(p.numel() for p in field.net.parameters())  # type: ignore[attr-defined]
    name = options.push or (home or out).resolve().name
    run = None if home is None else Run(home)
    write_text(out / CARD, model_card(config, run, name=name, parameters=parameters, command="kinetic sample"))
    print(f"Wrote {out}/: {WEIGHTS}, {CONFIG} and {CARD}, the card of the model; read it before you pass it on.")
    if options.push is not None:
        print(f"Pushed to {push_to_hub(out, options.push, private=options.private)}")
    print(f"Next:  {command('sample')} --checkpoint {out}   or   kinetic.from_pretrained({str(out)!r})")


def _checkpoint(run: str | None, checkpoint: str | None, root: Path) -> Path:
    if run is not None and checkpoint is not None:
        raise KineticError("RUN and --checkpoint do not go together; leave one out")
    found = Path(checkpoint) if checkpoint is not None else find_run(root, run) / LAST
    if not found.is_file():
        raise KineticError(f"there is no checkpoint {found}; name a run that has been trained, or another --checkpoint")
    return found


def _parser() -> Parser:
    parser = Parser(
        prog="kinetic export",
        description="Write a model as a folder: weights (safetensors), settings, and a card that says what it is.",
    )
    parser.add_argument("run", nargs="?", help="name or path of a run (default: newest run)")
    parser.add_argument("out", help="folder to write to")
    parser.add_argument("--checkpoint", metavar="FILE", help="a checkpoint instead of a run's last one")
    parser.add_argument("--weights", metavar="ema|raw", help="averaged weights or those as trained (default ema)")
    parser.add_argument("--push", metavar="USER/NAME", help="upload to this repository of the Hugging Face hub too")
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    parser.add_argument("--root", default="runs", help="folder of all runs (default runs)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="NAME", help="a package whose classes the run may name"
    )
    return parser
