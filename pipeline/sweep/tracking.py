"""A sweep in MLflow: a parent run, and below it a run for each trial, however often the sweep is resumed."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from h2q.errors import UserError, first_line
from pipeline.corpus.corpus import Corpus
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Follower, read_journal
from pipeline.runs.load import run_config
from pipeline.sweep.folder import job_of, result_files
from pipeline.sweep.progress import SweepProgress
from pipeline.sweep.report import Report, bits
from pipeline.sweep.space import describe
from pipeline.sweep.sweep import Sweep, train_command
from pipeline.sweep.trial import Trial
from pipeline.tracking.client import answering
from pipeline.tracking.description import with_result
from pipeline.tracking.provenance import DESCRIPTION_TAG, FOLDER_TAG, flatten, run_tags
from pipeline.tracking.registry import register, serve_command
from pipeline.tracking.store import MLflowStore
from pipeline.tracking.tracker import STATE_TAG, STATUS, MLflowRun, NullTracker, Tracker, track_run
from pipeline.tracking.ui_view import COLOUR_TAG, colour
from pipeline.training.summary import summarise


class SweepTracking:
    """Follows the journals of trials that run, and ends their runs. A server that is away costs no trial."""

    def __init__(
        self, store: MLflowStore | None, sweep: Sweep, corpus: Corpus, command: str, progress: SweepProgress
    ) -> None:
        """Opens the sweep's own run. Raises: UserError as `begin_parent` does."""
        self._store = store
        self._sweep = sweep
        self._corpus = corpus
        self._progress = progress
        self._following: dict[int, ExitStack] = {}
        self._began: dict[int, float] = {}
        self._parent = None if store is None else begin_parent(store, sweep, corpus, command)
        """MLflow's id of the sweep's own run."""

    def started(self, trial: Trial) -> None:
        """Follow the trial's journal from here on."""
        self._began[trial.number] = time.time()
        with self._forgiving():
            tracker = self._run(trial, time.time())
            following = self._following[trial.number] = ExitStack()
            following.enter_context(Follower(self._sweep.folder_of(trial).journal, tracker.log))

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing to do: the follower reads it in the journal."""

    def ended(self, trial: Trial) -> None:
        """Sum the trial up, in its folder and in MLflow."""
        began = self._began.pop(trial.number, None)
        self._following.pop(trial.number, ExitStack()).close()
        folder = self._sweep.folder_of(trial)
        records, tracker = read_journal(folder.journal), NullTracker()
        with self._forgiving():
            tracker = self._run(trial, began or (records[0]["time"] if records else time.time()))
        if trial.state == "finished":
            wall_seconds = time.time() - began if began else (folder.summary() or {}).get("wall_seconds")
            summarise(run_config(folder), folder, self._corpus, records, tracker, self._sweep.preset, wall_seconds)
        with self._forgiving():
            tracker.log(records)
            state = "stopped" if trial.state == "running" else trial.state
            tracker.finish(folder, state, None if state == "finished" else _result(trial))

    def finish(self, report: Report) -> None:
        """Tables, plots and the result; the best model, where a name was given; and what a server missed that was
        away."""
        if self._store is None or self._parent is None:
            return
        client = self._store.client
        with self._forgiving():
            for trial in self._sweep.trials:
                run = self._sweep.folder_of(trial).mlflow_run()
                if run is None or client.get_run(run["run_id"]).info.status == "RUNNING":
                    self.ended(trial)
            _log_report(self._store, self._parent, report, self._sweep.folder)
        model = self._register(report)
        with self._forgiving():
            described = client.get_run(self._parent).data.tags.get(DESCRIPTION_TAG, "")
            client.set_tag(self._parent, DESCRIPTION_TAG, with_result(described, _outcome(report, model)))

    def _register(self, report: Report) -> str | None:
        """Register the best model, if a name was given for it; its address."""
        name, best = self._sweep.config.run.tracking.register, report.best_run
        run = best and best.mlflow_run()
        if self._store is None or self._parent is None or name is None or best is None or run is None:
            return None
        with self._forgiving():
            version = register(best, name, self._store, run["run_id"])
            self._progress.say(f"the best trial's model is registered as models:/{name}/{version}; serve it with")
            self._progress.say(serve_command(self._store.uri, name, version))
            self._store.client.set_tag(self._parent, "registered_model", f"models:/{name}/{version}")
            return f"models:/{name}/{version}"
        return None

    def close(self, state: str) -> None:
        """End the parent run: finished, stopped or failed."""
        for following in self._following.values():
            following.close()
        if self._store is not None and self._parent is not None:
            with self._forgiving():
                self._store.client.set_tag(self._parent, STATE_TAG, state)
                self._store.client.set_terminated(self._parent, STATUS[state])

    @contextmanager
    def watch(self) -> Iterator[None]:
        """As that of a run, for the sweep's own."""
        parent = MLflowRun(self._store, self._parent) if self._store and self._parent else NullTracker()
        with parent.watch():
            yield

    def _run(self, trial: Trial, began: float) -> Tracker:
        """The trial's own run, below the sweep's."""
        folder = self._sweep.folder_of(trial)
        config = run_config(folder)
        command = train_command(config, self._sweep.preset)
        tags = {"sweep": self._sweep.name, COLOUR_TAG: colour(trial.number - 1)} | (
            {"mlflow.parentRunId": self._parent} if self._parent else {}
        )
        corpus = self._corpus
        return track_run(
            self._store, folder, config, corpus.name, corpus.sha256, command, self._sweep.preset, began=began, tags=tags
        )

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Inside, what MLflow does not take costs a line, and nothing but that is forgiven."""
        if self._store is None:
            yield
            return
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, UserError, OSError) as error:
            self._progress.say(
                f"MLflow did not take all of the sweep ({first_line(error)}): it is in {self._sweep.folder.path}; "
                f"send it with {self._sweep.folder.to_resume} when {self._store.uri} answers"
            )


@contextmanager
def track(
    store: MLflowStore | None, sweep: Sweep, corpus: Corpus, command: str, progress: SweepProgress
) -> Iterator[SweepTracking]:
    """Inside, the sweep is a running run of MLflow's."""
    tracking = SweepTracking(store, sweep, corpus, command, progress)
    try:
        with tracking.watch():
            yield tracking
    except BaseException as error:
        tracking.close("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    states = {trial.state for trial in sweep.trials}
    tracking.close("stopped" if "running" in states else "failed" if states == {"failed"} else "finished")


def begin_parent(store: MLflowStore, sweep: Sweep, corpus: Corpus, command: str) -> str:
    """The sweep's own run: the one that it had before, or a new one.

    Raises: UserError if it was deleted, or the store does not take it.
    """
    folder = sweep.folder
    with answering(store.address):
        earlier = folder.mlflow_run()
        if earlier is not None and earlier["tracking_uri"] == store.uri:
            store.check_run(earlier["run_id"], str(folder.mlflow_file))
            store.client.update_run(earlier["run_id"], status="RUNNING")
            return earlier["run_id"]
        tags = run_tags(corpus.name, corpus.sha256, command, sweep.preset, job=f"jobs/{job_of(command)}.py")
        tags |= {"sweep": sweep.name, FOLDER_TAG: str(folder.path)}
        search = sweep.config.search.to_dict()
        del search["space"]
        space = {f"space.{dimension.field}": str(dimension) for dimension in sweep.space}
        parameters = space | flatten(search, "search.")
        run_id = store.begin_run(sweep.name, tags, parameters, began=time.time())
        folder.note_mlflow_run(store.uri, run_id)
        store.log_corpus(run_id, sweep.config.run.corpus, corpus.name, corpus.sha256)
        return run_id


def _result(trial: Trial) -> dict[str, Any]:
    """What is known of a trial that did not finish, by the names of a summary."""
    return {
        "steps": trial.step,
        "validation_bpb": trial.bpb,
        "parameters": trial.parameters,
        "error": trial.error,
    }


def _outcome(report: Report, model: str | None) -> str:
    """The result of the sweep, as Markdown."""
    counts = ", ".join(f"{count} {state}" for state, count in report.counts.items() if count)
    lines = [f"Trials: {counts}"]
    if report.best is not None:
        lines.append(f"Best: **{bits(report.best)}** bits per byte on validation with {describe(report.best.values)}")
        lines.append(f"Train it with\n\n    {report.command}")
    if model is not None:
        lines.append(f"Registered: `{model}`")
    return "\n\n".join(lines)


def _log_report(store: MLflowStore, run_id: str, report: Report, folder: RunFolder) -> None:
    for state, count in report.counts.items():
        store.client.log_metric(run_id, f"trials/{state}", count)
    if report.best is not None and report.best.bpb is not None:
        store.client.log_metric(run_id, "validation/bpb", report.best.bpb, step=report.best.step)
    for file in result_files(folder):
        with suppress(FileNotFoundError):
            store.client.log_artifact(run_id, str(file))
    store.client.log_artifacts(run_id, str(folder.plots), folder.plots.name)
