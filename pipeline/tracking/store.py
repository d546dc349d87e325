"""MLflow's store and the experiment in it: opened for training and for looking, checked before anything starts."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2q.errors import UserError, first_line
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.storage.store_address import is_missing, sqlite_file
from pipeline.storage.uri import without_secrets
from pipeline.tracking import ui_view
from pipeline.tracking.provenance import FOLDER_TAG, option_tags, parameters, run_tags
from pipeline.tracking.tracker import LateRun, MLflowRun, NullTracker
from pipeline.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE_MAGIC = b"SQLite format 3\0"
_ABOUT = """Byte-level language models, trained by `python jobs/train.py`.

* `validation/bpb`, `test/bpb`: bits per byte of the whole split, lower is better; comparable on one corpus only (the
  dataset of a run). `train/bpb`: mean over the steps since the last record.
* `energy/block_NN`: mean L2 norm of the residual stream behind each block. `growth/rank`: active Kronecker terms.
* `mfu`: share of a GPU's bfloat16 peak that the products of the model take.
* `system/…`: load of the machine that started the run.

Side by side, with the fields in which runs differ: `python jobs/compare.py --experiment NAME`.
"""
_PARAMETERS = 100
"""Parameters that MLflow takes in one request."""


def open_client(uri: str) -> "MlflowClient":
    """A client that is quiet, and that gives up soon on a server that is away.

    MLflow's own defaults would block for four minutes; records wait in the journal meanwhile.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It would print a server's address, password included, where a run ends.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.tracking import MlflowClient

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    return MlflowClient(uri)


def reading_client(config: TrackingConfig) -> "MlflowClient | None":
    """A client for looking at the store; None where there is none yet: looking must not make one.

    Raises: UserError if it does not answer.
    """
    uri = tracking_uri(config)
    if is_missing(uri):
        return None
    from mlflow.exceptions import MlflowException

    try:
        client = open_client(uri)
        client.search_experiments(max_results=1)
    except MlflowException as error:
        reason = without_secrets(first_line(error))
        raise UserError(
            f"the MLflow store {without_secrets(uri)} does not answer ({reason}): start it, or name another"
        ) from error
    return client


class MLflowStore:
    """An open tracking store and experiment."""

    def __init__(self, config: TrackingConfig) -> None:
        """Raises: UserError if the store does not answer."""
        self.address = tracking_uri(config)
        """With the user and password that a server may want: for clients, never shown."""
        self.uri = without_secrets(self.address)
        from mlflow.exceptions import MlflowException

        try:
            self.client = open_client(self.address)
            self.experiment_id = self._experiment(config.experiment)
        except MlflowException as error:
            raise _unusable(self.address, without_secrets(first_line(error))) from error

    def run(
        self, folder: RunFolder, config: RunConfig, corpus: str, corpus_sha256: str, command: str, preset: str
    ) -> MLflowRun:
        """The run that tracks this folder: the one that it had before, or a new one."""
        earlier = folder.mlflow_run()
        if earlier is not None and earlier["tracking_uri"] == self.uri:
            self._tag_history(earlier["run_id"], folder)
            return MLflowRun(self, earlier["run_id"])
        tags = run_tags(corpus, corpus_sha256, command, preset) | {FOLDER_TAG: str(folder.path)}
        run = self.client.create_run(self.experiment_id, run_name=folder.name, tags=tags)
        folder.note_mlflow_run(self.uri, run.info.run_id)
        self.log_parameters(run.info.run_id, parameters(config.to_dict()))
        self._log_corpus(run.info.run_id, config.corpus, corpus, corpus_sha256)
        self._tag_history(run.info.run_id, folder)
        return MLflowRun(self, run.info.run_id)

    def ended_run(self, folder: RunFolder) -> str | None:
        """The id of the run that tracks this folder here, if nothing of it is missing; looking changes nothing."""
        earlier = folder.mlflow_run()
        if earlier is None or earlier["tracking_uri"] != self.uri:
            return None
        from mlflow.exceptions import MlflowException

        try:
            ended = self.client.get_run(earlier["run_id"]).info.status == "FINISHED"
        except MlflowException:
            return None
        return earlier["run_id"] if ended else None

    def _experiment(self, name: str) -> str:
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            if known.tags.get(ui_view.TAG) != ui_view.view_state():
                self.client.set_experiment_tag(known.experiment_id, ui_view.TAG, ui_view.view_state())
            return known.experiment_id
        # Artifacts lie beside the database; a server decides for itself.
        database = sqlite_file(self.uri)
        return self.client.create_experiment(
            name,
            artifact_location=(database.parent / "mlartifacts" / name).as_uri() if database else None,
            tags={
                # Or the UI would take it for one of generative AI, and open without a run in sight.
                "mlflow.experimentKind": "custom_model_development",
                "mlflow.note.content": _ABOUT,
                ui_view.TAG: ui_view.view_state(),
            },
        )

    def _log_corpus(self, run_id: str, config: CorpusConfig, name: str, sha256: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = {"source": config.source, "path": config.path, "hub": config.hub}
        given = {key: without_secrets(value) for key, value in source.items() if value is not None}
        dataset = Dataset(name=name, digest=sha256[:16], source_type="h2q corpus", source=json.dumps(given))
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def _tag_history(self, run_id: str, folder: RunFolder) -> None:
        """Parameters cannot be changed: what resumes have changed stands in tags, the newest value first."""
        for name, values in option_tags(folder.history()).items():
            self.client.set_tag(run_id, name, values)

    def log_parameters(self, run_id: str, parameters: dict[str, Any]) -> None:
        """Log parameters of a run, however many."""
        from mlflow.entities import Param

        listed = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(listed), _PARAMETERS):
            self.client.log_batch(run_id, params=listed[start : start + _PARAMETERS])


def follow(config: TrackingConfig, begin: Callable[[MLflowStore], MLflowRun]) -> LateRun | NullTracker:
    """A tracker whose run `begin` makes, or continues, once there is something to log; none where tracking is off."""
    if not config.enabled:
        return NullTracker()
    return LateRun(without_secrets(tracking_uri(config)), lambda: begin(MLflowStore(config)))


def check_store(config: TrackingConfig) -> None:
    """Refuse a store that cannot work, before anything is started.

    A server is asked, which takes seconds; a SQLite file, the ordinary case, is only looked at.
    Raises: UserError.
    """
    if not config.enabled:
        return
    uri = tracking_uri(config)
    if file := sqlite_file(uri):
        _check_file(uri, file)
    else:
        MLflowStore(config)


def _check_file(uri: str, file: Path) -> None:
    # MLflow makes the folders that are missing.
    existing = next(path for path in (file, *file.parents) if path.exists())
    if not os.access(existing, os.W_OK) or (existing != file and not existing.is_dir()):
        raise _unusable(uri, f"{existing} cannot be written to")
    if existing == file:
        with file.open("rb") as database:
            begins = database.read(len(_SQLITE_MAGIC))
        if begins not in (b"", _SQLITE_MAGIC):
            raise _unusable(uri, f"{file} is not a SQLite database")


def _unusable(uri: str, reason: str) -> UserError:
    return UserError(
        f"tracking.uri must be an MLflow store that works, got {without_secrets(uri)} ({reason}): start it, "
        "name another with --tracking.uri, or train with --tracking.no-enabled"
    )


def connect(config: TrackingConfig) -> MLflowStore | NullTracker:
    """Open the store, or nothing where tracking is off."""
    return MLflowStore(config) if config.enabled else NullTracker()
