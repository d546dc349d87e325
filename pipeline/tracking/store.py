"""MLflow: one training is one run, however often it is resumed."""

import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlparse

from h2q.errors import UserError, first_line
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record
from pipeline.storage.path import on_disk
from pipeline.storage.uri import without_secrets
from pipeline.tracking import ui_view as view

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LIBRARIES = ("torch", "ray", "mlflow", "datasets", "pyarrow", "safetensors")
FOLDER_TAG = "run_folder"
"""Tag of an MLflow run: where its folder is."""

_SQLITE, _SQLITE_MAGIC = "sqlite:///", b"SQLite format 3\0"
_ELSEWHERE = ("name", "storage", "resume", "verbose", "profile", "tracking.", "corpus.prepared", "corpus.cache")
_ABOUT = """Byte-level language models, trained by `python jobs/train.py`.

* `validation/bpb`, `test/bpb`: bits per byte of the whole split, lower is better; comparable on one corpus only (the
  dataset of a run). `train/bpb`: mean over the steps since the last record.
* `energy/block_NN`: mean L2 norm of the residual stream behind each block. `growth/rank`: active Kronecker terms.
* `mfu`: share of a GPU's bfloat16 peak that the products of the model take.
* `system/…`: load of the machine that started the run.

Side by side, with the fields in which runs differ: `python jobs/compare.py --experiment NAME`.
"""
_METRICS, _PARAMETERS = 1000, 100  # that MLflow takes in one request


class Tracker(Protocol):
    """What a run tells about itself while it trains and when it ends."""

    uri: str | None
    experiment_id: str | None
    run_id: str | None

    def log(self, records: list[Record]) -> None:
        """Log what was not logged yet."""

    def watch(self) -> AbstractContextManager[None]: ...

    def finish(self, folder: Path, status: str) -> None: ...

    def attach(self, folder: Path) -> None: ...


class NullTracker:
    """Tracks nothing."""

    uri: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None

    def run(self, *_: object) -> Tracker:
        return self

    def log(self, records: list[Record]) -> None:
        pass

    def watch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def finish(self, folder: Path, status: str) -> None:
        pass

    def attach(self, folder: Path) -> None:
        pass


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
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).exists():
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
        """With the user and password that a server may want: for clients, not to be told."""
        self.uri = without_secrets(self.address)
        from mlflow.exceptions import MlflowException

        try:
            self.client = open_client(self.address)
            self.experiment_id = self._experiment(config.experiment)
        except MlflowException as error:
            raise _unusable(self.address, without_secrets(first_line(error))) from error

    def run(
        self, folder: RunFolder, config: RunConfig, corpus: str, corpus_sha256: str, command: str, preset: str
    ) -> "MLflowRun":
        """The run that tracks this folder: the one that it had before, or a new one."""
        noted = folder.read("mlflow.json")
        if noted is not None and noted["tracking_uri"] == self.uri:
            return MLflowRun(self, noted["run_id"])
        tags = run_tags(corpus, corpus_sha256, command, preset) | {FOLDER_TAG: str(folder.path)}
        run = self.client.create_run(self.experiment_id, run_name=folder.name, tags=tags)
        folder.write("mlflow.json", {"tracking_uri": self.uri, "run_id": run.info.run_id})
        self.log_parameters(run.info.run_id, parameters(config.to_dict()))
        self._log_corpus(run.info.run_id, config.corpus, corpus, corpus_sha256)
        return MLflowRun(self, run.info.run_id)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.tags.get(view.TAG) != view.view_state():
                self.client.set_experiment_tag(found.experiment_id, view.TAG, view.view_state())
            return found.experiment_id
        # Artifacts lie beside the database; a server decides for itself.
        local = self.uri.startswith(_SQLITE)
        place = Path(self.uri.removeprefix(_SQLITE)).parent / "mlartifacts" / name if local else None
        return self.client.create_experiment(
            name,
            artifact_location=place.as_uri() if place else None,
            tags={
                # Or the UI would take it for one of generative AI, and open without a run in sight.
                "mlflow.experimentKind": "custom_model_development",
                "mlflow.note.content": _ABOUT,
                view.TAG: view.view_state(),
            },
        )

    def _log_corpus(self, run_id: str, config: CorpusConfig, name: str, sha256: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = {"source": config.source, "path": config.path, "hub": config.hub}
        given = {key: without_secrets(value) for key, value in source.items() if value is not None}
        dataset = Dataset(name=name, digest=sha256[:16], source_type="h2q corpus", source=json.dumps(given))
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def log_parameters(self, run_id: str, parameters: dict[str, Any]) -> None:
        """Log parameters of a run, however many."""
        from mlflow.entities import Param

        listed = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(listed), _PARAMETERS):
            self.client.log_batch(run_id, params=listed[start : start + _PARAMETERS])


class MLflowRun:
    """One MLflow run, new or continued."""

    def __init__(self, store: MLflowStore, run_id: str) -> None:
        self.store = store
        self.uri: str | None = store.uri
        self.experiment_id: str | None = store.experiment_id
        self.run_id: str | None = run_id
        self._id = run_id
        self._client = store.client
        self._client.update_run(run_id, status="RUNNING")
        histories = (self._client.get_metric_history(run_id, key) for key in ("train/bpb", "validation/bpb"))
        self._last_step = max((metric.step for history in histories for metric in history), default=-1)

    def log(self, records: list[Record]) -> None:
        """Log every number of the records at their steps; those of steps that were logged already are passed over."""
        from mlflow.entities import Metric

        fresh = [record for record in records if record["step"] > self._last_step]
        metrics = [
            Metric(key, value, int(record["time"] * 1000), record["step"])
            for record in fresh
            for key, value in record.items()
            if key not in ("step", "time")
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS])
        self._last_step = max([self._last_step, *(record["step"] for record in fresh)])

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Inside, the load of this machine is logged as system/…, by MLflow's own monitor, a sample each 10 s.

        Its steps are samples and go on where an earlier start of the run left off.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self._id, resume_logging=True, tracking_uri=self.store.address)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def finish(self, folder: Path, status: str) -> None:
        """Upload the record of the run, and end it (`status`: FINISHED, FAILED or KILLED)."""
        self._log_size(folder / "summary.json")
        for name in ("config.json", "summary.json", "metrics.jsonl"):
            if (folder / name).exists():
                with on_disk(folder / name) as path:
                    self._client.log_artifact(self._id, str(path))
        self._client.set_terminated(self._id, status)

    def attach(self, folder: Path) -> None:
        """Upload the pictures, samples and traces that the run left."""
        for name in ("plots", "samples", "profile"):
            if (folder / name).exists():
                with on_disk(folder / name) as path:
                    self._client.log_artifacts(self._id, str(path), name)

    def _log_size(self, path: Path) -> None:
        """What a list of runs is sorted by and no record holds; once for each step at which the run has ended."""
        from mlflow.entities import Metric

        if not path.exists():
            return
        summary = json.loads(path.read_text())
        known = self._client.get_metric_history(self._id, "bytes_seen")
        if all(metric.step != summary["steps"] for metric in known):
            now, step = int(time.time() * 1000), summary["steps"]
            named = [Metric(name, summary[name], now, step) for name in ("parameters", "bytes_seen", "seconds")]
            self._client.log_batch(self._id, metrics=named)


class LateRun:
    """The run of a store that is opened with the first record: MLflow takes two seconds to load, and training need
    not wait for it. A store that then does not answer is asked again with the next records."""

    run_id: str | None = None
    experiment_id: str | None = None

    def __init__(self, uri: str, begin: Callable[[], MLflowRun]) -> None:
        self.uri: str | None = uri
        self._begin = begin
        self._run: MLflowRun | None = None
        self._watching: ExitStack | None = None

    def run(self) -> MLflowRun:
        """The run, opened now if it was not yet."""
        if self._run is None:
            self._run = run = self._begin()
            self.run_id, self.experiment_id = run.run_id, run.experiment_id
            if self._watching is not None:
                self._watching.enter_context(run.watch())
        return self._run

    def log(self, records: list[Record]) -> None:
        """Log what was not logged yet."""
        if records:
            self.run().log(records)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """As that of the run, from its opening on."""
        with ExitStack() as self._watching:
            yield
        self._watching = None

    def finish(self, folder: Path, status: str) -> None:
        """As that of the run."""
        self.run().finish(folder, status)

    def attach(self, folder: Path) -> None:
        """As that of the run."""
        self.run().attach(folder)


def follow(config: TrackingConfig, begin: Callable[[MLflowStore], MLflowRun]) -> LateRun | NullTracker:
    """A tracker whose run `begin` makes, or continues, once there is something to log; none where tracking is off."""
    if not config.enabled:
        return NullTracker()
    return LateRun(without_secrets(tracking_uri(config)), lambda: begin(MLflowStore(config)))


def is_file(config: TrackingConfig) -> bool:
    """Whether the store is a SQLite file: what such a store refuses, it will refuse again; a server may come back."""
    return tracking_uri(config).startswith(_SQLITE)


def check_store(config: TrackingConfig) -> None:
    """Refuse a store that cannot work, before anything is started.

    A server is asked, which takes seconds; a SQLite file, the ordinary case, is only looked at.
    Raises: UserError.
    """
    if not config.enabled:
        return
    uri = tracking_uri(config)
    if not is_file(config):
        MLflowStore(config)
        return
    path = Path(uri.removeprefix(_SQLITE))
    # MLflow makes the folders that are missing.
    there = next(place for place in (path, *path.parents) if place.exists())
    if not os.access(there, os.W_OK) or (there != path and not there.is_dir()):
        raise _unusable(uri, f"{there} cannot be written to")
    if there == path:
        with path.open("rb") as file:
            begins = file.read(len(_SQLITE_MAGIC))
        if begins not in (b"", _SQLITE_MAGIC):
            raise _unusable(uri, f"{path} is not a SQLite database")


def _unusable(uri: str, reason: str) -> UserError:
    return UserError(
        f"tracking.uri must be an MLflow store that works, got {without_secrets(uri)} ({reason}): start it, "
        "name another with --tracking.uri, or train with --tracking.no-enabled"
    )


def connect(config: TrackingConfig) -> MLflowStore | NullTracker:
    """Open the store, or nothing where tracking is off."""
    return MLflowStore(config) if config.enabled else NullTracker()


def tracking_uri(config: TrackingConfig) -> str:
    """The absolute URI of the tracking store: the option's, the environment's, or mlflow.db in the working directory.

    Raises: UserError for a plain folder, which MLflow no longer tracks in.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE):
        uri = f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
    if urlparse(uri).scheme in ("", "file"):
        raise UserError(
            f"tracking.uri must be a database or a server, got {without_secrets(uri)!r}: try sqlite:///mlflow.db"
        )
    return uri


def ui_command(uri: str) -> str | None:
    """The one command that starts MLflow's UI on this store; None for a server, which shows itself."""
    if urlparse(uri).scheme in ("http", "https"):
        return None
    return f"{mlflow_program()} ui --backend-store-uri {shlex.quote(uri)}"


def mlflow_program() -> str:
    """What a shell must be told to start the mlflow of this Python."""
    beside = Path(sys.executable).with_name("mlflow")
    on_path = shutil.which("mlflow") == str(beside) or not beside.exists()
    return "mlflow" if on_path else shlex.quote(str(beside))


def ui_address(uri: str, experiment_id: str) -> str:
    """The page that shows the experiment's runs with their curves side by side, under `ui_command` or on the server."""
    root = uri.rstrip("/") if urlparse(uri).scheme in ("http", "https") else "http://127.0.0.1:5000"
    # Without the first word the menu beside the runs would be the one for generative AI.
    shown = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={view.KEY}"
    return f"{root}/#/experiments/{experiment_id}/runs?{shown}"


def run_tags(corpus: str, corpus_sha256: str, command: str, preset: str) -> dict[str, str]:
    """Where a run comes from: commit, corpus, library versions, the command line as its description."""
    return {
        "mlflow.note.content": f"`{command}`\n\nCorpus: {corpus}",
        "mlflow.source.name": "jobs/train.py",
        "mlflow.source.type": "JOB",
        "preset": preset,
        "corpus": corpus,
        "corpus_sha256": corpus_sha256,
        **({"mlflow.source.git.commit": commit} if (commit := git_commit()) else {}),
        **{f"version/{name}": number for name, number in versions().items()},
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what a run computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def git_commit() -> str | None:
    """The commit of this source tree, None outside a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def parameters(config: dict[str, Any]) -> dict[str, Any]:
    """The options that decide what a run computes, by their path; not where it lies or how it is watched."""
    return {name: value for name, value in flatten(config).items() if not name.startswith(_ELSEWHERE)}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"dim": 64}} → {"model.dim": 64}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
