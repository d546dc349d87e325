"""A sweep in MLflow: a parent run, and below it a run for each trial, however often the sweep is resumed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import perf_counter
from typing import Any

from pipeline.corpus.corpus import Corpus
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Follower, read_journal
from pipeline.runs.load import run_config
from pipeline.sweep.config import DEFAULT_MODEL
from pipeline.sweep.folder import result_files
from pipeline.sweep.progress import SweepProgress
from pipeline.sweep.report import Report
from pipeline.sweep.sweep import Sweep, train_command
from pipeline.sweep.trial import Trial
from pipeline.tracking.provenance import FOLDER_TAG, flatten, run_tags
from pipeline.tracking.registry import register, serve_command
from pipeline.tracking.store import MLflowStore
from pipeline.tracking.tracker import MLflowRun, NullTracker
from pipeline.training.summary import summarise

_STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "KILLED"}


class SweepTracking:
    """Follows the journals of trials that run, and ends their runs. A server that is away costs no trial."""

    def __init__(self, store: MLflowStore | NullTracker, sweep: Sweep, corpus: Corpus, progress: SweepProgress) -> None:
        self.store = store
        self._sweep = sweep
        self._corpus = corpus
        self._progress = progress
        self._following: dict[int, ExitStack] = {}
        self._began: dict[int, float] = {}
        self._wall_seconds: dict[int, float] = {}
        """Of the trials that have ended in this start of the sweep."""
        self.parent: str | None = None
        """MLflow's id of the sweep's own run."""

    def open(self, command: str) -> None:
        """The parent run: the one that the sweep had before, or a new one."""
        if isinstance(self.store, MLflowStore):
            with self._forgiving():
                self.parent = _parent(self.store, self._sweep, self._corpus, command)

    def started(self, trial: Trial) -> None:
        """Follow the trial's journal from here on."""
        self._began[trial.number] = perf_counter()
        with self._forgiving():
            tracker = self._run(trial)
            following = self._following[trial.number] = ExitStack()
            following.enter_context(Follower(self._sweep.folder_of(trial).journal, tracker.log))

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing to do: the follower reads it in the journal."""

    def ended(self, trial: Trial) -> None:
        """Sum the trial up, in its folder and in MLflow."""
        if trial.number in self._began:
            self._wall_seconds[trial.number] = perf_counter() - self._began.pop(trial.number)
        self._following.pop(trial.number, ExitStack()).close()
        folder = self._sweep.folder_of(trial)
        with self._forgiving():
            tracker = self._run(trial)
            records = read_journal(folder.journal)
            if trial.state == "finished":
                wall_seconds = self._wall_seconds.get(trial.number)
                summarise(run_config(folder), folder, self._corpus, records, tracker, self._sweep.preset, wall_seconds)
            tracker.log(records)
            self._tag(tracker, {"trial/state": trial.state, **({"trial/error": trial.error} if trial.error else {})})
            tracker.finish(folder, _STATUS[trial.state])

    def finish(self, report: Report) -> None:
        """Tables, plots and the best model; and what a server missed that was away."""
        if not isinstance(self.store, MLflowStore) or self.parent is None:
            return
        with self._forgiving():
            for trial in self._sweep.trials:
                run = self._sweep.folder_of(trial).mlflow_run()
                if run is None or self.store.client.get_run(run["run_id"]).info.status == "RUNNING":
                    self.ended(trial)
            _log_report(self.store, self.parent, report, self._sweep.folder)
        best = folder_of_best(self._sweep, report)
        run = best and best.mlflow_run()
        if best is not None and run is not None:
            with self._forgiving():
                name = self._sweep.config.run.tracking.register or DEFAULT_MODEL
                version = register(best, name, self.store, run["run_id"])
                self.store.client.set_tag(self.parent, "registered_model", f"models:/{name}/{version}")
                self._progress.say(f"the best trial's model is registered as models:/{name}/{version}; serve it with")
                self._progress.say(serve_command(self.store.uri, name, version))

    def close(self, status: str) -> None:
        """End the parent run."""
        for following in self._following.values():
            following.close()
        if isinstance(self.store, MLflowStore) and self.parent is not None:
            with self._forgiving():
                self.store.client.set_terminated(self.parent, status)

    def _run(self, trial: Trial) -> Any:
        """The trial's own run, below the sweep's."""
        folder = self._sweep.folder_of(trial)
        config = run_config(folder)
        command = train_command(config, self._sweep.preset)
        tracker = self.store.run(folder, config, self._corpus.name, self._corpus.sha256, command, self._sweep.preset)
        if self.parent is not None:
            self._tag(tracker, {"mlflow.parentRunId": self.parent, "sweep": self._sweep.name})
        return tracker

    def _tag(self, tracker: Any, tags: dict[str, str]) -> None:
        if isinstance(self.store, MLflowStore) and isinstance(tracker, MLflowRun) and tracker.run_id:
            for name, value in tags.items():
                self.store.client.set_tag(tracker.run_id, name, value)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._progress.say(
                f"MLflow did not take all of the sweep ({type(error).__name__}): it is in {self._sweep.folder.path}; "
                f"send it with --resume --name {self._sweep.name} when {self.store.uri} answers"
            )


@contextmanager
def track(
    store: MLflowStore | NullTracker, sweep: Sweep, corpus: Corpus, command: str, progress: SweepProgress
) -> Iterator[SweepTracking]:
    """Inside, the sweep is a running run of MLflow's."""
    tracking = SweepTracking(store, sweep, corpus, progress)
    tracking.open(command)
    parent = MLflowRun(store, tracking.parent) if isinstance(store, MLflowStore) and tracking.parent else NullTracker()
    try:
        with parent.watch():
            yield tracking
    except BaseException as error:
        tracking.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    states = {trial.state for trial in sweep.trials}
    tracking.close("KILLED" if "running" in states else "FAILED" if states == {"failed"} else "FINISHED")


def _parent(store: MLflowStore, sweep: Sweep, corpus: Corpus, command: str) -> str:
    folder = sweep.folder
    earlier = folder.mlflow_run()
    if earlier is not None and earlier["tracking_uri"] == store.uri:
        store.client.update_run(earlier["run_id"], status="RUNNING")
        return earlier["run_id"]
    tags = run_tags(corpus.name, corpus.sha256, command, sweep.preset, job="jobs/tune.py")
    tags |= {"sweep": sweep.name, FOLDER_TAG: str(folder.path)}
    run_id = store.client.create_run(store.experiment_id, run_name=sweep.name, tags=tags).info.run_id
    folder.note_mlflow_run(store.uri, run_id)
    search = sweep.config.search.to_dict()
    del search["space"]
    space = {f"space.{dimension.field}": str(dimension) for dimension in sweep.space}
    store.log_parameters(run_id, space | flatten(search, "search."))
    return run_id


def _log_report(store: MLflowStore, run_id: str, report: Report, folder: RunFolder) -> None:
    for state, count in report.counts.items():
        store.client.log_metric(run_id, f"trials/{state}", count)
    if report.best is not None and report.best.bpb is not None:
        store.client.log_metric(run_id, "validation/bpb", report.best.bpb, step=report.best.step)
    for file in result_files(folder):
        with suppress(FileNotFoundError):
            store.client.log_artifact(run_id, str(file))
    store.client.log_artifacts(run_id, str(folder.plots), folder.plots.name)


def folder_of_best(sweep: Sweep, report: Report) -> RunFolder | None:
    """The run of the best configuration's best seed."""
    if report.best is None:
        return None
    return sweep.folder_of(min(report.best.trials, key=lambda trial: trial.bpb or 0.0))
