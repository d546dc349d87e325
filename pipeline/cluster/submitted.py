"""A run that `ray job submit` started: its working directory is a temporary copy, where nothing may be left."""

import os
from dataclasses import replace
from pathlib import Path

from h2q.errors import require
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig
from pipeline.shown import without_secrets
from pipeline.storage import uri as storage
from pipeline.storage.store_address import given_address, sqlite_address, sqlite_file

_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the command of a submitted job."""


def submitted() -> bool:
    """Whether this process is the command of a submitted job."""
    return _SUBMITTED in os.environ


def placed(config: RunConfig) -> RunConfig:
    """The config of a submitted run with all that it leaves under its storage; any other config as it is.

    Raises: UserError if storage is relative, or if no tracking store can lie in it.
    """
    if not submitted():
        return config
    check_lasting("storage", config.storage)
    folder = storage.absolute(config.storage)
    return replace(
        config,
        storage=folder,
        corpus=_corpus(config.corpus, folder),
        tracking=_tracking(config.tracking, folder),
    )


def check_lasting(name: str, path: str) -> None:
    """Refuse a relative path for what a submitted job writes. Raises: UserError naming the option."""
    require(
        not submitted() or _is_absolute(path),
        f"{name} must be an absolute path or a URI in a submitted job, got {path!r}: the job's folder is a temporary "
        f"copy; name a place that every node sees with --{name}",
    )


def _corpus(config: CorpusConfig, folder: str) -> CorpusConfig:
    return config if _is_absolute(config.prepared) else replace(config, prepared=storage.join(folder, config.prepared))


def _tracking(config: TrackingConfig, folder: str) -> TrackingConfig:
    uri = given_address(config)
    database = sqlite_file(uri)
    if not config.enabled or database is None or _is_absolute(str(database)):
        return config
    local = storage.local_path(folder)
    require(
        local is not None,
        f"tracking.uri must name a server where storage is {without_secrets(folder)}, got {uri}: start one "
        "with mlflow server and name it with --tracking.uri, or train with --tracking.no-enabled",
    )
    return replace(config, uri=sqlite_address(f"{local}/{database}"))


def _is_absolute(path: str) -> bool:
    return storage.is_uri(path) or Path(path).expanduser().is_absolute()
