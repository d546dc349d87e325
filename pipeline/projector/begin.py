"""The run of a projector before it starts: its core found and checked, and what the options leave open filled in."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated

import tyro

from h2q.config import BoundProjector, ProjectorConfig
from h2q.errors import require
from pipeline import cli
from pipeline.cluster.submitted import placed
from pipeline.config import RunConfig, TrackingConfig
from pipeline.projector.config import DECODER, FOLDER, UNTRAINED, ProjectionConfig
from pipeline.runs.checkpoint import config_of, weights_sha256
from pipeline.runs.folder import RunFolder, find_folder
from pipeline.runs.load import load_checkpoint, run_config
from pipeline.storage.path import locate, text_of
from pipeline.tracking.find import find_run

_OPTIONS = [one.name for one in fields(ProjectorConfig)]


@dataclass(frozen=True, kw_only=True)
class _Named:
    """The options that say which core, and which of its projectors."""

    run: Annotated[str, tyro.conf.Positional] = ProjectionConfig.run
    name: str | None = None
    storage: str = RunConfig.storage
    resume: bool = False
    untrained: bool = False
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def configure(args: Sequence[str], prog: str) -> tuple[ProjectionConfig, RunFolder]:
    """The options, over those of the projector that is resumed, and the folder of the core.

    Raises: UserError naming the option and the value.
    """
    if any(arg in ("-h", "--help") for arg in args):
        cli.parse(ProjectionConfig, args, default=ProjectionConfig(), prog=prog)
    named = cli.parse_known(_Named, args)
    require(named.run.strip() != "", f"RUN must be the name or folder of a run, latest, or best, got {named.run!r}")
    core = find_run(named.run, storage=named.storage, tracking=named.tracking)
    name, projector = named.name or (UNTRAINED if named.untrained else DECODER.name), ProjectorConfig()
    corpus = run_config(core).corpus
    require(
        not corpus.marked,
        f"a projector reads bytes, and the corpus of {core.name} has markers: name a run of a corpus without",
    )
    training = replace(DECODER, name=name, corpus=corpus)
    if named.resume:
        bound, training = find_projector(core, str(name))
        projector = ProjectorConfig(**{option: getattr(bound, option) for option in _OPTIONS})
        training = replace(training, projector=None, storage=named.storage)
    default = ProjectionConfig(run=named.run, projector=projector, training_run=training)
    options = cli.parse(ProjectionConfig, args, default=default, prog=prog)
    return replace(options, training_run=placed(options.training_run)), core


def bound_run(options: ProjectionConfig, core: RunFolder) -> tuple[RunConfig, str | None]:
    """The config of the projector's run, which knows its core, and for a new one the sha256 of the core's corpus.

    Raises: UserError for a core without a state, and where a projector that is resumed is to be another, or its core is
    gone, damaged or another one now.
    """
    run, asked = options.training_run, options.projector.to_dict()
    if run.resume:
        from pipeline.projector.core import find_core

        (bound, _), corpus_sha256 = find_projector(core, str(run.name)), None
        find_core(bound)
        for option, now in asked.items():
            was = getattr(bound, option)
            require(
                was == now,
                f"resume needs the projector of the run: projector.{option} was {was}, now {now}; start another --name",
            )
    else:
        checkpoint, path = load_checkpoint(core, f": python jobs/train.py {core.to_resume}")
        model, corpus_sha256 = config_of(checkpoint.state).model, checkpoint.state.get("corpus_sha256")
        require(
            model.carries or options.projector.given == "stream",
            f"a projector reads a state, and the model of {core.name} carries none (model.mixer {model.mixer}): name a "
            "run of --model.mixer state or both, or read its stream, as a control, with --projector.given stream",
        )
        about = {"core": text_of(path), "sha256": weights_sha256(path), "core_model": model}
        bound = BoundProjector(**asked, **about, untrained=options.untrained)
    return replace(run, storage=text_of(core.path / FOLDER), projector=bound), corpus_sha256


def find_projector(core: RunFolder, name: str) -> tuple[BoundProjector, RunConfig]:
    """What the projector of this name writes and reads, and its whole config; its core is looked for where that now
    lies. Raises: UserError where the core has no such projector."""
    folder = core.path / FOLDER
    require(
        RunFolder(folder / name).config_file.exists(),
        f"{core.name} has no projector named {name}: train it with python jobs/project.py "
        f"{shlex.quote(core.name)} --name {shlex.quote(name)}",
    )
    config = run_config(find_folder(folder, name))
    require(config.projector is not None, f"{name} in {folder} is no projector: name another with --name")
    assert config.projector is not None
    return replace(config.projector, core=text_of(core.checkpoints / locate(config.projector.core).name)), config
