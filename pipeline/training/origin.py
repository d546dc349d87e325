"""What a new run begins with: the options of another run, or its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from h2q.config import ModelConfig
from h2q.errors import UserError, require
from pipeline.cli import parse_known
from pipeline.config import RunConfig
from pipeline.runs.checkpoint import MODEL, Checkpoint, DamagedCheckpoint, config_of, read_checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint, run_config
from pipeline.storage.path import AnyPath, locate, text_of
from pipeline.tracking.find import find_run

Parsed = TypeVar("Parsed")

FREE = ("init", "dropout", "memory")
"""Fields of a model's config that do not decide what its weights mean; neither does how learned positions start."""


@dataclass(frozen=True, kw_only=True)
class _Store:
    uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options that bring what the others go over, and where a run is looked for."""

    config: str | None = None
    init_from: str | None = None
    storage: str | None = None
    tracking: _Store = field(default_factory=_Store)


def begin(
    named: str | None,
    preset: str,
    options: Sequence[str],
    parse_over: Callable[[str, RunConfig], Parsed],
    default: RunConfig,
) -> tuple[str, Parsed]:
    """Preset and config of a new run, or of a new sweep: the options over those of another run (`--config`), and with
    the model of another run (`--init-from`), where they ask for it.

    `named`: the preset on the command line, if any. `parse_over(preset, default)` puts the options over a default,
    which is `default` where they ask for no other.
    Raises: UserError for another run that is not there, and for options that contradict it.
    """
    asked = parse_known(_Asked, options)
    if asked.config is not None:
        require(named is None, f"config {asked.config} brings its own preset: leave out {named}")
        preset, default = config_in(asked.config)
    if asked.init_from is not None:
        tracking = replace(default.tracking, uri=asked.tracking.uri or default.tracking.uri)
        storage = asked.storage or default.storage
        there = replace(default, init_from=asked.init_from, storage=storage, tracking=tracking)
        default = replace(default, model=_model(_weights(there)[0]))
    return preset, parse_over(preset, default)


def check_resumes(options: Sequence[str]) -> None:
    """Raises: UserError where what is resumed is to begin as another run too."""
    asked = parse_known(_Asked, options)
    for name, value in (("config", asked.config), ("init-from", asked.init_from)):
        require(value is None, f"resume goes on as it was: leave out --{name} {value}")


def check_preset(named: str | None, preset: str, name: str) -> None:
    """Raises: UserError where the run or sweep `name` is to be resumed as if it had another preset."""
    require(named in (None, preset), f"resume continues {name}, whose preset is {preset}, not {named}: leave it out")


def config_in(file: str) -> tuple[str, RunConfig]:
    """Preset and config in a run's config.json, or in a run's folder, without what was asked of that run alone.

    Raises: UserError if it is not there, or is not one.
    """
    path = locate(file)
    folder = RunFolder(path.parent if path.name == "config.json" else path)
    noted = folder.config()
    if noted is None:
        other = path.name != "config.json" and path.exists()
        wrong = f"{path} is neither that nor a run's folder" if other else f"there is no {folder.config_file}"
        raise UserError(f"config must be the config.json of a run, but {wrong}: name another")
    return noted["preset"], replace(run_config(folder), name=None, resume=False, estimate=False, profile=0)


def with_source(config: RunConfig) -> RunConfig:
    """The config with `init_from` as the checkpoint that it means now: `latest` is another run tomorrow.

    Raises: UserError if there is none, or its model has another shape.
    """
    return config if config.init_from is None else replace(config, init_from=text_of(_fitting(config)[1]))


def source_of(config: RunConfig) -> Path | None:
    """The checkpoint that `with_source` has found, if there is to be one."""
    return None if config.init_from is None else locate(config.init_from)


def first_weights(config: RunConfig, source: AnyPath) -> Checkpoint:
    """The checkpoint there, with whose weights a run begins. Raises: UserError as `with_source` does."""
    return _fitting(replace(config, init_from=text_of(source)))[0]


def _fitting(config: RunConfig) -> tuple[Checkpoint, AnyPath]:
    checkpoint, path = _weights(config)
    source = _model(checkpoint)
    for name in (one.name for one in fields(ModelConfig)):
        mine, theirs = getattr(config.model, name), getattr(source, name)
        alike = config.model.order == source.order if name == "positions" else mine == theirs
        require(
            alike or name in FREE,
            f"init_from needs the model of {path.parent.parent.name}: model.{name} is {theirs} there, {mine} "
            f"here; leave out --model.{name.replace('_', '-')}",
        )
    return checkpoint, path


def _weights(config: RunConfig) -> tuple[Checkpoint, AnyPath]:
    """The checkpoint that `init_from` means, one that is named or the best one of a run, and its folder."""
    assert config.init_from is not None
    path = locate(config.init_from)
    if not (path / MODEL).exists():
        return load_checkpoint(find_run(config.init_from, storage=config.storage, tracking=config.tracking))
    try:
        return read_checkpoint(path, moments=False), path
    except DamagedCheckpoint as error:
        raise UserError(f"init_from must be a whole checkpoint, but it is damaged: {error}") from error


def _model(checkpoint: Checkpoint) -> ModelConfig:
    """The model of a checkpoint; the ranks that it has grown are those to start from."""
    model = config_of(checkpoint.state).model
    rank = int(checkpoint.model["ranks"].max())
    return replace(model, fixed_rank=rank, max_rank=None if rank == model.storage_rank else model.storage_rank)
