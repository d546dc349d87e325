"""What a run tells about itself while it trains: to MLflow, to an MLflow store that is opened late, or to nobody."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record
from pipeline.storage.path import on_disk

if TYPE_CHECKING:
    from pipeline.tracking.store import MLflowStore

_METRICS = 1000
"""Metrics that MLflow takes in one request."""


class Tracker(Protocol):
    """What a run tells about itself while it trains and when it ends."""

    uri: str | None
    experiment_id: str | None
    run_id: str | None

    def log(self, records: list[Record]) -> None:
        """Log what was not logged yet."""

    def watch(self) -> AbstractContextManager[None]: ...

    def finish(self, folder: RunFolder, status: str) -> None: ...

    def attach(self, folder: RunFolder) -> None: ...


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

    def finish(self, folder: RunFolder, status: str) -> None:
        pass

    def attach(self, folder: RunFolder) -> None:
        pass


class MLflowRun:
    """One MLflow run, new or continued."""

    def __init__(self, store: "MLflowStore", run_id: str) -> None:
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

    def finish(self, folder: RunFolder, status: str) -> None:
        """Upload the record of the run, and end it (`status`: FINISHED, FAILED or KILLED)."""
        self._log_size(folder)
        for file in (folder.config_file, folder.history_file, folder.summary_file, folder.journal):
            if file.exists():
                with on_disk(file) as path:
                    self._client.log_artifact(self._id, str(path))
        self._client.set_terminated(self._id, status)

    def attach(self, folder: RunFolder) -> None:
        """Upload the pictures, samples and traces that the run left."""
        for files in (folder.plots, folder.samples, folder.profile):
            if files.exists():
                with on_disk(files) as path:
                    self._client.log_artifacts(self._id, str(path), files.name)

    def _log_size(self, folder: RunFolder) -> None:
        """What a list of runs is sorted by and no record holds; once for each step at which the run has ended."""
        from mlflow.entities import Metric

        summary = folder.summary()
        if summary is None:
            return
        known = self._client.get_metric_history(self._id, "bytes_seen")
        if all(metric.step != summary["steps"] for metric in known):
            now, step = int(time.time() * 1000), summary["steps"]
            named = [Metric(name, summary[name], now, step) for name in ("parameters", "bytes_seen", "seconds")]
            self._client.log_batch(self._id, metrics=named)


class LateRun:
    """The run of a store that is opened with the first record: MLflow takes a while to load, and training need
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

    def finish(self, folder: RunFolder, status: str) -> None:
        """As that of the run."""
        self.run().finish(folder, status)

    def attach(self, folder: RunFolder) -> None:
        """As that of the run."""
        self.run().attach(folder)
