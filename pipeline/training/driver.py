"""A RunConfig becomes a trained, tracked run: prepare the corpus, start Ray Train, follow it, sum it up.

Only a local run needs torch in this process: it takes seconds to load, and 200 MB.
"""

import errno
import os
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from rich.console import Console

from h2q.errors import UserError, first_line, require
from pipeline.cluster.nodes import check_nodes
from pipeline.cluster.ray_internals import start_coordinator_early
from pipeline.cluster.resources import Resources, find_resources, local_resources
from pipeline.cluster.session import find_address, quiet_ray, ray_session
from pipeline.config import RunConfig
from pipeline.corpus.corpus import MANIFEST, Corpus
from pipeline.prepare.prepare import prepare
from pipeline.runs.folder import RunFolder, check_storage, claim_folder, find_folder
from pipeline.runs.journal import Follower, Record, read_journal
from pipeline.runs.stop import Stopping, interruptible, request_stop, stoppable
from pipeline.storage.path import locate
from pipeline.storage.uri import without_secrets
from pipeline.tracking.store import LateRun, Tracker, check_store, follow, is_file, versions
from pipeline.training.graph_rule import use_graph, why_eager
from pipeline.training.plots import draw
from pipeline.training.progress import Progress

if TYPE_CHECKING:
    from pipeline.training.summary import Summary


class TrainingFailed(Exception):
    """Training ended by an error that is not the user's. One line; the run can be resumed."""


def train(config: RunConfig, *, preset: str, command: str, console: Console) -> tuple["Summary", RunFolder, Stopping]:
    """Train a run to its end, or until a signal stops it. Its folder then holds what `run_folder` lists.

    Raises: UserError for what the user can mend, as far as possible before anything is started; TrainingFailed.
    """
    began = time.perf_counter()
    storage = check_storage(config.storage)
    address = None if config.local else find_address(config.address)
    quiet_ray(verbose=config.verbose)
    with ThreadPoolExecutor(1) as aside, Progress(console, config) as progress:
        # To load a library takes seconds, and so does Ray's start: side by side. Where only workers compute, this
        # process has no use for torch.
        checking = aside.submit(check_store, config.tracking)
        aside.submit(import_module, "torch" if config.local else "ray.train")
        progress.stage("starting" if config.local else "starting Ray")
        # Ray takes a while to end, too.
        with nullcontext() if config.local else ray_session(verbose=config.verbose, address=address, aside=aside):
            if config.local:
                resources = local_resources(config.workers, config.use_gpu)
            else:
                resources = find_resources(config.workers, config.use_gpu, wait=config.wait, say=progress.say)
            if not resources.gpu:
                from pipeline.training.precision import check_precision

                check_precision(config.precision, "cpu")  # what a GPU can do, its worker will find out
            use_graph(config.graph, cuda=resources.gpu, workers=config.workers)
            if reason := why_eager(config.graph, cuda=resources.gpu, workers=config.workers):
                progress.say(reason)
            progress.stage("preparing the corpus")
            corpus = prepare(config.corpus, local=config.local, on_event=progress.preparing)
            check_corpus(corpus, config)
            if not config.local:
                check_nodes(storage, locate(corpus.folder) / MANIFEST, resources)
            checking.result()
            tracking, config, command = config.tracking, public(config), without_secrets(command)

            if config.resume:
                folder = find_folder(storage, config.name)
                check_resumable(folder, config, corpus, progress)
            else:
                folder = claim_folder(storage, config, preset, command)
            progress.say(f"run {folder.path}")
            progress.stage("waiting for the first step")
            tracker = follow(
                tracking, lambda store: store.run(folder, config, corpus.name, corpus.sha256, command, preset)
            )

            refused: list[UserError] = []

            def track(records: list[Record]) -> None:
                try:
                    tracker.log(records)
                except UserError as error:
                    if is_file(tracking) and not refused:
                        # Of an older MLflow, say: before hours are spent. A server that is away is waited for.
                        refused.append(error)
                        request_stop(folder.path)
                    raise

            def show(records: list[Record]) -> None:
                progress.show(records)
                import_module("matplotlib.figure")  # while training runs, so that its end need not wait for it

            try:
                with (
                    stoppable(folder.path) as stopping,
                    tracker.watch(),
                    Follower(folder.journal, show, again=progress.again),
                    Follower(folder.journal, track),
                ):
                    fit(config, folder, corpus, resources, own=address == "local")
            except BaseException as error:
                end(tracker, folder, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", progress)
                raise
        # First what counts: whoever stops a job may grant it no more than 3 seconds (`ray job stop`).
        from pipeline.training.summary import summarise

        records = read_journal(folder.journal)
        summary = summarise(config, folder, corpus, records, tracker, preset, time.perf_counter() - began)
        if refused and summary.status == "stopped":
            raise UserError(f"{refused[0]}; then continue with --resume --name {folder.name}")
        end(tracker, folder, "FINISHED" if summary.status == "finished" else "KILLED", progress)
        if summary.status == "stopped":
            progress.say(f"stopped at step {summary.steps}; continue with --resume --name {folder.name}")
        if config.profile and (trace := folder.path / "profile" / "trace.json.gz").exists():
            progress.say(f"profile {trace} (open it in https://ui.perfetto.dev)")
        progress.stage("drawing")
        draw(records, folder.path / "plots", folder.name)
        with suppress(Exception):  # `end` has said what to do where the server is away
            tracker.attach(folder.path)
        if config.tracking.register and summary.status == "finished":
            publish(tracker, folder, config.tracking.register, progress)
    return summary, folder, stopping


def public(config: RunConfig) -> RunConfig:
    """The config as it may be noted down and shown: without the passwords of its URIs."""
    corpus, tracking = config.corpus, config.tracking
    return replace(
        config,
        storage=without_secrets(config.storage),
        corpus=replace(
            corpus, path=corpus.path and without_secrets(corpus.path), prepared=without_secrets(corpus.prepared)
        ),
        tracking=replace(tracking, uri=tracking.uri and without_secrets(tracking.uri)),
    )


def check_corpus(corpus: Corpus, config: RunConfig) -> None:
    """Refuse a corpus that is too short to train on or to judge by.

    Raises: UserError naming the split.
    """
    from pipeline.corpus.lanes import Lanes

    Lanes(corpus.train, lanes=config.training.lanes, seq_len=config.model.seq_len)
    for split in (corpus.validation, corpus.test):
        require(
            len(split) >= 2,
            f"the {split.name} split must hold at least 2 bytes to be scored, found {len(split)}: use more text or a "
            "larger --corpus.holdout",
        )


def check_resumable(folder: RunFolder, config: RunConfig, corpus: Corpus, progress: Progress) -> None:
    """Refuse to continue a run as something else.

    Raises: UserError naming the field and both values.
    """
    from pipeline.runs.checkpoint import newest_state

    found = newest_state(folder.checkpoints)
    if found is None:
        return
    state, path, damaged = found
    for reason in damaged:
        progress.say(f"damaged checkpoint passed over: {reason}")
    was = state["corpus_sha256"]
    if was != corpus.sha256:
        raise UserError(
            f"resume needs the corpus of the run: its sha256 was {was[:16]}, {corpus.name} has {corpus.sha256[:16]}"
        )
    for name, value in config.model.to_dict().items():
        was = state["config"]["model"][name]
        if was != value and name not in ("memory", "dropout"):
            raise UserError(
                f"resume needs the model of the run: model.{name} was {was}, now {value}; start another --name"
            )
    progress.say(f"continuing at step {state['step']} from {path.name}")


def fit(config: RunConfig, folder: RunFolder, corpus: Corpus, resources: Resources, *, own: bool = False) -> None:
    """Run the training loop in its workers, under Ray Train, or by it in this process.

    `own`: the Ray is this process's own, and ends with it.
    Raises: UserError and TrainingFailed as they happened in a worker.
    """
    import ray.train

    from pipeline.training.ray_trainer import lean_trainer, train_loop_per_worker

    order = {
        "config": config,
        "folder": folder.path,
        "corpus": locate(corpus.folder),
        "use_gpu": resources.gpu,
        "threads": resources.threads,
        "about": {"config": config.to_dict(), "corpus_sha256": corpus.sha256, "versions": versions()},
    }
    # Whoever waits for a worker that hangs, waits so long: Ray's controller, `report`, the collectives of torch.
    for waiting in ("WORKER_HEALTH_CHECK", "COLLECTIVE"):
        os.environ[f"RAY_TRAIN_{waiting}_TIMEOUT_S"] = str(config.timeout)
    # What Ray notes of a run is of no use to us (it cannot resume from a damaged note): a place for the time being.
    # Only its controller writes there, and Ray keeps that on this node.
    notes = tempfile.TemporaryDirectory(prefix="h2q-ray-")
    if own:
        start_coordinator_early()
    trainer = lean_trainer(
        train_loop_per_worker,
        private=own,
        timeout=config.timeout,
        train_loop_config=order,
        scaling_config=ray.train.ScalingConfig(
            num_workers=0 if config.local else config.workers,
            use_gpu=resources.gpu,
            resources_per_worker=None if config.local else {"CPU": resources.cpus, "GPU": int(resources.gpu)},
        ),
        run_config=ray.train.RunConfig(
            name=f"{time.time_ns()}",
            storage_path=notes.name,
            failure_config=ray.train.FailureConfig(max_failures=config.retries),
        ),
    )
    try:
        trainer.fit() if config.local else interruptible(trainer.fit)
    except UserError:
        raise
    except Exception as error:
        failures = list(getattr(error, "worker_failures", {}).values()) or [error]
        for failure in failures:
            if isinstance(failure, UserError):
                raise failure from None
            if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"storage must have room for checkpoints, but {folder.path} is full: free space there, then "
                    f"continue with --resume --name {folder.name}; what was saved is whole"
                ) from error
        with suppress(UserError):  # a store that is away
            (folder.path / "error.txt").write_text("".join(traceback.format_exception(error)))
        raise TrainingFailed(
            f"{type(failures[0]).__name__}: {_last_line(failures[0])} (all of it in {folder.path / 'error.txt'}; "
            f"continue with --resume --name {folder.name})"
        ) from error
    finally:
        notes.cleanup()


def end(tracker: Tracker, folder: RunFolder, status: str, progress: Progress) -> None:
    """End the tracked run; a server that is away loses nothing, and does not spoil a training that went well."""
    try:
        tracker.log(read_journal(folder.journal))
        tracker.finish(folder.path, status)
    except Exception as error:
        reason = without_secrets(first_line(error))
        progress.say(
            f"MLflow did not take all of the run ({reason}): it is in {folder.journal}; send it with --resume --name "
            f"{folder.name} when {tracker.uri} answers"
        )


def publish(tracker: Tracker, folder: RunFolder, name: str, progress: Progress) -> None:
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
            f"not registered as {name} ({_last_line(error)}): try again with --resume --name {folder.name} "
            f"--tracking.register {name}"
        )
    else:
        progress.say(f"registered as models:/{name}/{version}; serve it with")
        progress.say(serve_command(run.store.uri, name, version))


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else "no message"
