"""The command `study semantics`: do samples of high energy show their class more clearly?"""

from typing import Any

from kinetic.cli.decoding import decoder_of
from kinetic.cli.options import parsed
from kinetic.cli.study_options import finish, study_parser, subject_of
from kinetic.errors import KineticError
from kinetic.metrics.extractors import trained_classifier
from kinetic.metrics.semantics import FILES, PROMPT, Scorer, classifier_scorer, clip_scorer, prompts_of
from kinetic.models.autoencoder import Decode
from kinetic.models.hub import fetched
from kinetic.samples.references import training_of
from kinetic.studies.semantics import judged, semantics_findings
from kinetic.studies.subject import Subject

EXAMPLES = """examples:
  kinetic study semantics RUN                                      by a classifier of the run's own images
  kinetic study semantics RUN --clip openai/clip-vit-base-patch32 --prompt "a photo of a {}" """


def study_semantics(args: list[str]) -> None:
    """Score samples for their class, and compare low and high energies."""
    options = parsed(_parser(), args)
    if options.clip is None and options.vae is not None:
        raise KineticError("--vae makes pictures for --clip; a classifier takes samples as they are")
    subject = subject_of("semantics", options)
    scorer = None if options.clip is None else _clip(options, subject)
    if scorer is None and subject.data.num_classes is None:
        raise KineticError(f"the images of {subject.data.name} have no labels, so there are no classes to score by")
    drawing = subject.draw()
    if not subject.first:
        return
    decode = None if scorer is None else _decode(options, subject)
    by = scorer or classifier_scorer(trained_classifier(training_of(subject.data)), device=subject.device)
    protocol = {} if options.clip is None else {"prompt": options.prompt}
    found = judged(subject, drawing, by, decode=decode)
    finish(subject, semantics_findings(subject, found, by, **protocol))


def _clip(options: Any, subject: Subject) -> Scorer:
    """The CLIP that was named, with a sentence for each class; found before anything is drawn."""
    field = subject.origin.field
    if len(field.shape or ()) != 3:
        raise KineticError(f"--clip scores pictures, and the samples of {subject.origin.name} are {field.space}")
    names = subject.origin.class_names or subject.data.class_names
    if names is None:
        raise KineticError("--clip needs names of classes for its prompts, and neither network nor images have any")
    prompts = prompts_of(names, options.prompt)
    folder = fetched(options.clip, files=FILES, what=f"the CLIP {options.clip}")
    return clip_scorer(folder, prompts, name=options.clip, device=subject.device)


def _decode(options: Any, subject: Subject) -> Decode | None:
    autoencoder = decoder_of(options, subject.origin, subject.device)
    if autoencoder is None and subject.origin.field.space == "latents":
        raise KineticError("--clip scores pictures, and these latents are not decoded; name their autoencoder, --vae")
    return None if autoencoder is None else autoencoder.decode


def _parser() -> Any:
    made = study_parser("semantics", "Compare how clearly samples of low and high energy show a class.", EXAMPLES)
    group = made.add_argument_group("what scores")
    group.add_argument(
        "--clip", metavar="NAME|DIR", help="a CLIP of the hub, or a folder (None: a classifier of the run's own images)"
    )
    group.add_argument("--prompt", type=str, default=PROMPT, metavar="TEXT", help="with {} for the name of a class")
    group.add_argument(
        "--vae", type=str, metavar="NAME", help="clip: decode latents by this autoencoder (None: the run's)"
    )
    return made
