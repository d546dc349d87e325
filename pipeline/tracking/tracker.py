"""What a run tells about itself while it trains and when it ends: to MLflow, or to nobody."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from pipeline.config import RunConfig
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record
from pipeline.shown import printable
from pipeline.storage.path import on_disk
from pipeline.tracking.client import answering
from pipeline.tracking.description import result_of, with_result
from pipeline.tracking.provenance import DESCRIPTION_TAG, FOLDER_TAG, option_tags, parameters, run_tags
from pipeline.tracking.store import MLflowStore

STATE_TAG = "state"
"""Tag of an MLflow run: finished, stopped, pruned or failed."""
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "pruned": "KILLED", "failed": "FAILED"}
_COMPARED = ("bytes_seen", "train/bpb", "validation/bpb", "test/bpb", "learning_rate", "objective")
"""What tells a record that was logged from a new one of the same step; every record has the first. Where other options
begin, the first loss is still the same, and the last two are not."""
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

    def finish(self, folder: RunFolder, state: str, result: dict[str, Any] | None = None) -> None: ...

    def attach(self, folder: RunFolder) -> None: ...


class NullTracker:
    """Tracks nothing."""

    uri: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None

    def log(self, records: list[Record]) -> None:
        pass

    def watch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def finish(self, folder: RunFolder, state: str, result: dict[str, Any] | None = None) -> None:
        pass

    def attach(self, folder: RunFolder) -> None:
        pass


class MLflowRun:
    """One MLflow run, new or continued."""

    def __init__(self, store: MLflowStore, run_id: str) -> None:
        self.uri: str | None = store.uri
        self.experiment_id: str | None = store.experiment_id
        self.run_id: str | None = run_id
        self._id = run_id
        self._address = store.address
        self._client = store.client
        self._began = time.time()
        self._newest = 0.0  # time of the newest record
        self._client.update_run(run_id, status="RUNNING")
        histories = (self._client.get_metric_history(run_id, name) for name in _COMPARED)  # the oldest first
        self._logged = {(metric.key, metric.step): metric.value for history in histories for metric in history}

    def log(self, records: list[Record]) -> None:
        """Log every number of the records at their steps; those that were logged already are passed over. Of a step
        that was trained again with another result MLflow keeps both, the newer one as the latest."""
        from mlflow.entities import Metric

        fresh = [record for record in records if _compared(record).items() - self._logged.items()]
        metrics = [
            Metric(key, value, int(record["time"] * 1000), record["step"])
            for record in fresh
            for key, value in record.items()
            if key not in ("step", "time")
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS])
        for record in fresh:
            self._logged |= _compared(record)
        self._newest = max([self._newest, *(record["time"] for record in records)])

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Inside, the load of this machine is logged as system/…, by MLflow's own monitor, a sample each 10 s.

        Its steps are samples and go on where an earlier start of the run left off.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self._id, resume_logging=True, tracking_uri=self._address)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def finish(self, folder: RunFolder, state: str, result: dict[str, Any] | None = None) -> None:
        """Upload the record of the run, and end it: finished, stopped, pruned or failed. `result`: what its description
        ends with; None: its summary."""
        self._log_size(folder)
        for file in (folder.config_file, folder.history_file, folder.summary_file, folder.journal):
            if file.exists():
                with on_disk(file) as path:
                    self._client.log_artifact(self._id, str(path))
        described = self._client.get_run(self._id).data.tags.get(DESCRIPTION_TAG, "")
        known = (folder.summary() or {}) if result is None else result
        self._client.set_tag(self._id, DESCRIPTION_TAG, with_result(described, result_of(state, known)))
        self._client.set_tag(self._id, STATE_TAG, state)
        # What was trained before this process had the run has ended then, not now.
        late = 0 < self._newest < self._began
        self._client.set_terminated(self._id, STATUS[state], int(self._newest * 1000) if late else None)

    def attach(self, folder: RunFolder) -> None:
        """Upload the pictures, samples and traces that the run left."""
        for files in (folder.plots, folder.samples, folder.profile):
            if files.exists():
                with on_disk(files) as path:
                    self._client.log_artifacts(self._id, str(path), files.name)

    def _log_size(self, folder: RunFolder) -> None:
        """What a list of runs is sorted by, as the summary has it; once for each step at which the run has ended."""
        from mlflow.entities import Metric

        summary = folder.summary()
        if summary is None:
            return
        now, step = int(time.time() * 1000), summary["steps"]
        for name in ("parameters", "bytes_seen", "seconds", "bytes_per_second"):  # the last: over the whole run
            logged = {(metric.step, metric.value) for metric in self._client.get_metric_history(self._id, name)}
            if name in summary and (step, summary[name]) not in logged:
                self._client.log_batch(self._id, metrics=[Metric(name, summary[name], now, step)])


def _compared(record: Record) -> dict[tuple[str, int], float]:
    return {(name, record["step"]): record[name] for name in _COMPARED if name in record}


def track_run(
    store: MLflowStore | None,
    folder: RunFolder,
    config: RunConfig,
    corpus: str,
    corpus_sha256: str,
    command: str,
    preset: str,
    *,
    began: float,
    tags: dict[str, str] | None = None,
) -> Tracker:
    """The run that tracks this folder: the one that it had before, or a new one; none where `store` is None.

    `began`: when a new one began, in seconds since the epoch; `tags`: what else it is tagged with.
    Raises: UserError if the run was deleted, or the store does not take it.
    """
    if store is None:
        return NullTracker()
    with answering(store.address):
        earlier = folder.mlflow_run()
        if earlier is not None and earlier["tracking_uri"] == store.uri:
            store.check_run(earlier["run_id"], str(folder.mlflow_file))
            _tag_history(store, earlier["run_id"], folder)
            return MLflowRun(store, earlier["run_id"])
        told = run_tags(corpus, corpus_sha256, command, preset) | {FOLDER_TAG: str(folder.path)} | (tags or {})
        run_id = store.begin_run(folder.name, told, parameters(config.to_dict()), began=began)
        folder.note_mlflow_run(store.uri, run_id)
        store.log_corpus(run_id, config.corpus, corpus, corpus_sha256)
        _tag_history(store, run_id, folder)
        return MLflowRun(store, run_id)


def _tag_history(store: MLflowStore, run_id: str, folder: RunFolder) -> None:
    """Parameters cannot be changed: what resumes have changed stands in tags, the newest value first."""
    for name, values in option_tags(folder.history()).items():
        store.client.set_tag(run_id, name, printable(values))
