"""A RunConfig becomes a trained, tracked run: prepare the corpus, train it in its workers, follow it, sum it up.

Only a local run needs torch in this process: it takes seconds to load, and 200 MB.
"""

import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from h2q.errors import UserError, first_line
from pipeline.cluster.environment import check_environment
from pipeline.cluster.resources import Resources, find_resources, local_resources
from pipeline.cluster.session import find_address
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.folder import RunFolder, check_new, check_storage, claim_folder
from pipeline.runs.journal import Follower, Record, read_journal
from pipeline.runs.stage import watched_stage
from pipeline.runs.stop import Stopping, stoppable
from pipeline.shown import without_secrets
from pipeline.threads import busy_note, wait_asleep_where_busy
from pipeline.tracking.store import MLflowStore, connect
from pipeline.tracking.tracker import Tracker, track_run
from pipeline.training.fit import fit, last_line
from pipeline.training.graph_rule import use_graph, why_eager
from pipeline.training.origin import source_of, with_source
from pipeline.training.plots import draw
from pipeline.training.precision import chosen_precision
from pipeline.training.progress import Progress
from pipeline.training.prologue import check_first, check_run, prepared_corpus, public, session
from pipeline.training.resume import (
    EarlierRun,
    changes,
    check_resumable,
    check_same_corpus,
    find_earlier,
    go_on,
    hold,
    note_options,
)

if TYPE_CHECKING:
    from pipeline.training.summary import Summary
    from pipeline.training.task import Task


class TrainingResult(NamedTuple):
    """What training came to. `stopping.signal`: the signal that ended it before its last step, if one did."""

    summary: "Summary"
    folder: RunFolder
    stopping: Stopping


@dataclass(frozen=True)
class _Start:
    """What was asked for, and what is known of it before anything starts."""

    config: RunConfig
    preset: str
    command: str
    storage: Path
    earlier: EarlierRun | None
    """The run to go on with, if one is."""

    began: float
    """When the run began: so long before now as its earlier starts took, too."""


@dataclass(frozen=True)
class _Run:
    """A run that is about to train: its config as it may be noted down, and where it is kept and tracked."""

    config: RunConfig
    preset: str
    folder: RunFolder
    corpus: Corpus
    weights: Path | None
    """What it begins with, as a worker can read it."""
    store: MLflowStore | None
    tracker: Tracker


def train(
    config: RunConfig,
    *,
    preset: str,
    command: str,
    console: Console,
    task: "Task | None" = None,
    corpus_sha256: str | None = None,
) -> TrainingResult:
    """Train a run to its end, or until a signal stops it. Its folder then holds what `pipeline.runs.folder` lists.
    `task`: what it learns (None: to predict the next byte). `corpus_sha256`: of the corpus of a new run, where it is
    known; a run that goes on knows its own.

    With `resume`, a run that has nothing left to do is left as it is.
    Raises: UserError for what the user can mend, as far as possible before anything is started; TrainingFailed.
    """
    began = time.time()
    check_environment()
    storage = check_storage(config.storage)
    if not config.resume:
        check_new(storage, config)
        check_first(config)
        config = with_source(config)
    private = not config.local and find_address(config.address) == "local"
    with ThreadPoolExecutor(1) as aside, Progress(console, config) as progress, ExitStack() as held:
        # To load a library takes seconds, and so does Ray's start: side by side. Where only workers compute, this
        # process has no use for torch.
        connecting = aside.submit(connect, config.tracking)
        busy = wait_asleep_where_busy() if config.local or private else 0.0  # beside MLflow, before torch
        # A store that does not work is told at once: nothing is loaded after it.
        aside.submit(lambda: connecting.exception() or import_module("torch" if config.local else "ray.train"))
        earlier = None
        if config.resume:
            earlier = find_earlier(storage, config.name)
            hold(earlier.folder, held, progress.say)
            check_resumable(earlier, config)
            began -= earlier.seconds
        start = _Start(config, preset, without_secrets(command), storage, earlier, began)
        if earlier is not None and (result := earlier.result(config)) is not None:
            return _leave(start, earlier, result, connecting.result(), progress)
        # Ray takes a while to end, too.
        with session(config, progress, aside=aside):
            store = connecting.result()
            resources = _resources(config, progress, busy)
            start, corpus = _settle(start, resources, corpus_sha256, progress)
            run = _begin(start, corpus, store, held, progress)
            stopping = _follow(run, resources, progress, private=private, began=began, task=task)
        # First what counts: whoever stops a job may grant it no more than 3 seconds (`ray job stop`).
        from pipeline.training.summary import summarise

        records = read_journal(run.folder.journal)
        wall_seconds = time.time() - began
        summary = summarise(run.config, run.folder, corpus, records, run.tracker, preset, wall_seconds)
        _conclude(run, summary, records, progress)
    return TrainingResult(summary, run.folder, stopping)


def _settle(
    start: _Start, resources: Resources, corpus_sha256: str | None, progress: Progress
) -> tuple[_Start, Corpus]:
    """The options as these resources have them, and the corpus; both checked, also against the run that goes on."""
    config, earlier = start.config, start.earlier
    # Of another number of threads the last bits would differ: the run keeps to this one.
    precision = chosen_precision(config.precision, gpu=resources.gpu, say=progress.say, local=config.local)
    config = replace(config, threads=resources.threads, precision=precision)
    known = earlier.state["corpus_sha256"] if earlier is not None and earlier.state else corpus_sha256
    corpus = prepared_corpus(config, start.storage, resources, progress, sha256=known)
    check_run(config, corpus, resources)
    progress.judge_by(corpus)
    if earlier is not None:
        check_same_corpus(earlier, corpus)
    return replace(start, config=config), corpus


def _resources(config: RunConfig, progress: Progress, busy: float) -> Resources:
    """What each worker is given; a line where its steps are launched one operation at a time, and where other programs
    keep `busy` cores of this machine."""
    if config.local:
        resources = local_resources(config.use_gpu, config.threads)
    else:
        resources = find_resources(
            config.workers, config.use_gpu, threads=config.threads, wait=config.wait, say=progress.say
        )
    use_graph(config.graph, cuda=resources.gpu, workers=config.workers)
    if reason := why_eager(config.graph, cuda=resources.gpu, workers=config.workers):
        progress.say(reason)
    if not resources.gpu and (note := busy_note(busy, resources.threads)):
        progress.say(note)
    return resources


def _begin(start: _Start, corpus: Corpus, store: MLflowStore | None, held: ExitStack, progress: Progress) -> _Run:
    """Claim the folder of a new run, or note how the earlier one goes on; nothing of it holds a password."""
    config, preset = public(replace(start.config, resume=False)), start.preset
    if start.earlier is not None:
        folder, preset = start.earlier.folder, start.earlier.preset
        go_on(start.earlier, config, start.command, progress)
    else:
        folder = claim_folder(start.storage, config, preset, start.command)
        hold(folder, held, progress.say)
        if config.init_from:
            progress.say(f"begins with the weights of {config.init_from}")
    progress.say(f"run {folder.path}")
    tracker = track_run(store, folder, config, corpus.name, corpus.sha256, start.command, preset, began=start.began)
    progress.stage("waiting for the first step")
    return _Run(config, preset, folder, corpus, source_of(start.config), store, tracker)


def _leave(
    start: _Start, earlier: EarlierRun, result: "Summary", store: MLflowStore | None, progress: Progress
) -> TrainingResult:
    """A run that has nothing left to train stays as it is; MLflow is sent what it lacks, and registers if asked to."""
    folder, tracking, command = earlier.folder, start.config.tracking, start.command
    # What else was asked for would have changed the training alone.
    kept = public(replace(earlier.config, tracking=tracking))
    if changes(earlier.config, kept):
        note_options(earlier, kept, command, progress)
    if store is not None:
        run_id = store.ended_run(folder)
        if run_id is None:
            about = (folder, kept, result.corpus, result.corpus_sha256, command, earlier.preset)
            began = next((record["time"] for record in read_journal(folder.journal)), time.time())
            tracker = track_run(store, *about, began=began)
            run_id = tracker.run_id
            if _end(tracker, folder, "finished", progress):
                _attach(tracker, folder, progress)
        if tracking.register:
            _publish(store, run_id, folder, tracking.register, progress)
    progress.say(
        f"run {folder.name} has done all of its {result.steps} steps and is left as it is; raise --training.steps to "
        "train on"
    )
    return TrainingResult(result, folder, Stopping())


def _follow(
    run: _Run, resources: Resources, progress: Progress, *, private: bool, began: float, task: "Task | None"
) -> Stopping:
    """Train, and meanwhile show and track what the journal says; whatever happens, the tracked run is ended."""
    folder = run.folder

    told = False

    def track(records: list[Record]) -> None:
        nonlocal told
        try:
            run.tracker.log(records)
        except Exception as error:
            if not told:
                told = True
                reason = without_secrets(first_line(error))
                progress.say(f"MLflow does not answer ({reason}): training goes on, records wait in {folder.journal}")
            raise

    def show(records: list[Record]) -> None:
        progress.show(records)
        import_module("matplotlib.figure")  # while training runs, so that its end need not wait for it

    try:
        with (
            stoppable(folder.path) as stopping,
            run.tracker.watch(),
            Follower(folder.journal, show, again=progress.again),
            watched_stage(folder.stage_file, progress.evaluating),
            Follower(folder.journal, track),
        ):
            fit(
                run.config,
                folder,
                run.corpus,
                resources,
                weights=run.weights,
                private=private,
                began=began,
                task=task,
            )
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if not stopped:
            with suppress(UserError, OSError):  # what went wrong first is what is told
                folder.write(folder.failure_file.name, {"error": without_secrets(first_line(error))})
        _end(run.tracker, folder, "stopped" if stopped else "failed", progress)
        raise
    return stopping


def _conclude(run: _Run, summary: "Summary", records: list[Record], progress: Progress) -> None:
    """End the tracked run, say what to do next, draw, register."""
    folder, stopped = run.folder, summary.status == "stopped"
    taken = _end(run.tracker, folder, summary.status, progress)
    if stopped:
        progress.say(f"stopped at step {summary.steps}; continue with {folder.to_resume}")
    if run.config.profile and folder.trace.exists():
        progress.say(f"profile {folder.trace} (open it in https://ui.perfetto.dev)")
    progress.stage("drawing")
    references = summary.references["validation"]
    draw(records, folder.plots, folder.name, bytes_per_step=run.config.bytes_per_step, references=references)
    if taken:
        _attach(run.tracker, folder, progress)
    if run.store and run.config.tracking.register and not stopped:
        _publish(run.store, run.tracker.run_id, folder, run.config.tracking.register, progress)


def _end(tracker: Tracker, folder: RunFolder, state: str, progress: Progress) -> bool:
    """End the tracked run; a server that is away loses nothing, and does not spoil a training that went well. Whether
    it took all."""
    try:
        tracker.log(read_journal(folder.journal))
        tracker.finish(folder, state)
        return True
    except Exception as error:
        reason = without_secrets(first_line(error))
        progress.say(
            f"MLflow did not take all of the run ({reason}): it is in {folder.journal}; send it with "
            f"{folder.to_resume} when {tracker.uri} answers"
        )
        return False


def _attach(tracker: Tracker, folder: RunFolder, progress: Progress) -> None:
    """Upload what the run left besides; it lies in its folder, too."""
    try:
        tracker.attach(folder)
    except Exception as error:
        reason = without_secrets(first_line(error))
        progress.say(
            f"MLflow did not take the run's pictures and samples ({reason}): they are in {folder.path}; see that "
            f"{tracker.uri} can keep artifacts"
        )


def _publish(store: MLflowStore, run_id: str | None, folder: RunFolder, name: str, progress: Progress) -> None:
    """Register the run's model; a registry that is away does not spoil a training that went well."""
    from pipeline.tracking.registry import register, serve_command

    assert run_id, "a run that is tracked has an id"
    progress.stage("registering")
    try:
        version = register(folder, name, store, run_id)
    except Exception as error:
        progress.say(
            f"not registered as {name} ({last_line(error)}): try again with {folder.to_resume} "
            f"--tracking.register {shlex.quote(name)}"
        )
    else:
        progress.say(f"registered as models:/{name}/{version}; serve it with")
        progress.say(serve_command(store.uri, name, version))
