"""A RunConfig becomes a trained, tracked run: prepare the corpus, train it in its workers, follow it, sum it up.

Only a local run needs torch in this process: it takes seconds to load, and 200 MB.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from h2q.errors import UserError, first_line
from pipeline.cluster.resources import Resources, find_resources, local_resources
from pipeline.cluster.session import find_address
from pipeline.config import RunConfig, TrackingConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.folder import RunFolder, check_storage, claim_folder, find_folder
from pipeline.runs.journal import Follower, Record, read_journal
from pipeline.runs.stop import Stopping, request_stop, stoppable
from pipeline.storage.uri import without_secrets
from pipeline.threads import busy_cores, busy_note
from pipeline.tracking.store import check_store, follow
from pipeline.tracking.tracker import LateRun, Tracker
from pipeline.tracking.uri import is_file
from pipeline.training.fit import fit, last_line
from pipeline.training.graph_rule import use_graph, why_eager
from pipeline.training.plots import draw
from pipeline.training.progress import Progress
from pipeline.training.prologue import check_run, prepared_corpus, public, session
from pipeline.training.resume import check_resumable

if TYPE_CHECKING:
    from pipeline.training.summary import Summary


class TrainingResult(NamedTuple):
    """What training came to. `stopping.signal`: the signal that ended it before its last step, if one did."""

    summary: "Summary"
    folder: RunFolder
    stopping: Stopping


@dataclass(frozen=True)
class _Run:
    """A run that is about to train: its config as it may be noted down, and where it is kept and tracked."""

    config: RunConfig
    preset: str
    folder: RunFolder
    corpus: Corpus
    tracking: TrackingConfig
    tracker: Tracker
    refusals: list[UserError] = field(default_factory=list)
    """The first error of a tracking store that will refuse again, for which the run was asked to stop."""


def train(config: RunConfig, *, preset: str, command: str, console: Console) -> TrainingResult:
    """Train a run to its end, or until a signal stops it. Its folder then holds what `pipeline.runs.folder` lists.

    Raises: UserError for what the user can mend, as far as possible before anything is started; TrainingFailed.
    """
    began = time.perf_counter()
    storage = check_storage(config.storage)
    private = not config.local and find_address(config.address) == "local"
    busy = busy_cores() if config.local or private else 0.0
    with ThreadPoolExecutor(1) as aside, Progress(console, config) as progress:
        # To load a library takes seconds, and so does Ray's start: side by side. Where only workers compute, this
        # process has no use for torch.
        checking = aside.submit(check_store, config.tracking)
        aside.submit(import_module, "torch" if config.local else "ray.train")
        # Ray takes a while to end, too.
        with session(config, progress, aside=aside):
            resources = _resources(config, progress, busy)
            corpus = prepared_corpus(config, storage, resources, progress)
            check_run(config, corpus, resources)
            checking.result()
            # Of another number of threads the last bits would differ: the run keeps to this one.
            config = replace(config, threads=resources.threads)
            run = _begin(config, storage, corpus, preset, command, progress)
            stopping = _follow(run, resources, progress, private=private)
        # First what counts: whoever stops a job may grant it no more than 3 seconds (`ray job stop`).
        from pipeline.training.summary import summarise

        records = read_journal(run.folder.journal)
        wall_seconds = time.perf_counter() - began
        summary = summarise(run.config, run.folder, corpus, records, run.tracker, preset, wall_seconds)
        _conclude(run, summary, records, progress)
    return TrainingResult(summary, run.folder, stopping)


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


def _begin(config: RunConfig, storage: Path, corpus: Corpus, preset: str, command: str, progress: Progress) -> _Run:
    """Claim the folder of a new run, or find that of the run to continue; nothing of it holds a password."""
    shown, command = public(config), without_secrets(command)
    if config.resume:
        folder = find_folder(storage, config.name)
        check_resumable(folder, shown, corpus, progress)
    else:
        folder = claim_folder(storage, shown, preset, command)
    progress.say(f"run {folder.path}")
    progress.stage("waiting for the first step")
    tracker = follow(
        config.tracking, lambda store: store.run(folder, shown, corpus.name, corpus.sha256, command, preset)
    )
    return _Run(shown, preset, folder, corpus, config.tracking, tracker)


def _follow(run: _Run, resources: Resources, progress: Progress, *, private: bool) -> Stopping:
    """Train, and meanwhile show and track what the journal says; whatever happens, the tracked run is ended."""
    folder = run.folder

    def track(records: list[Record]) -> None:
        try:
            run.tracker.log(records)
        except UserError as error:
            if is_file(run.tracking) and not run.refusals:
                # Of an older MLflow, say: before hours are spent. A server that is away is waited for.
                run.refusals.append(error)
                request_stop(folder.path)
            raise

    def show(records: list[Record]) -> None:
        progress.show(records)
        import_module("matplotlib.figure")  # while training runs, so that its end need not wait for it

    try:
        with (
            stoppable(folder.path) as stopping,
            run.tracker.watch(),
            Follower(folder.journal, show, again=progress.again),
            Follower(folder.journal, track),
        ):
            fit(run.config, folder, run.corpus, resources, private=private)
    except BaseException as error:
        _end(run.tracker, folder, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", progress)
        raise
    return stopping


def _conclude(run: _Run, summary: "Summary", records: list[Record], progress: Progress) -> None:
    """End the tracked run, say what to do next, draw, register."""
    folder, stopped = run.folder, summary.status == "stopped"
    if run.refusals and stopped:
        raise UserError(f"{run.refusals[0]}; then continue with --resume --name {folder.name}")
    _end(run.tracker, folder, "KILLED" if stopped else "FINISHED", progress)
    if stopped:
        progress.say(f"stopped at step {summary.steps}; continue with --resume --name {folder.name}")
    if run.config.profile and folder.trace.exists():
        progress.say(f"profile {folder.trace} (open it in https://ui.perfetto.dev)")
    progress.stage("drawing")
    draw(records, folder.plots, folder.name)
    with suppress(Exception):  # `_end` has said what to do where the server is away
        run.tracker.attach(folder)
    if run.tracking.register and not stopped:
        _publish(run.tracker, folder, run.tracking.register, progress)


def _end(tracker: Tracker, folder: RunFolder, status: str, progress: Progress) -> None:
    """End the tracked run; a server that is away loses nothing, and does not spoil a training that went well."""
    try:
        tracker.log(read_journal(folder.journal))
        tracker.finish(folder, status)
    except Exception as error:
        reason = without_secrets(first_line(error))
        progress.say(
            f"MLflow did not take all of the run ({reason}): it is in {folder.journal}; send it with --resume --name "
            f"{folder.name} when {tracker.uri} answers"
        )


def _publish(tracker: Tracker, folder: RunFolder, name: str, progress: Progress) -> None:
    """Register the run's model; a registry that is away does not spoil a training that went well."""
    from pipeline.tracking.registry import register, serve_command

    assert isinstance(tracker, LateRun), "the config asks for tracking where it asks to register"
    progress.stage("registering")
    try:
        run = tracker.run()
        assert run.run_id
        version = register(folder, name, run.store, run.run_id)
    except Exception as error:
        progress.say(
            f"not registered as {name} ({last_line(error)}): try again with --resume --name {folder.name} "
            f"--tracking.register {name}"
        )
    else:
        progress.say(f"registered as models:/{name}/{version}; serve it with")
        progress.say(serve_command(run.store.uri, name, version))
