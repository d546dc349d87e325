"""A sweep, from its config to a ranked table: prepare once, train many on Ray Tune, keep the account in MLflow."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from h2q.errors import require
from pipeline.cluster.environment import check_environment
from pipeline.cluster.resources import Resources
from pipeline.cluster.session import find_address
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.folder import RunFolder, check_storage
from pipeline.runs.stop import Stopping, interruptible, stoppable
from pipeline.shown import without_secrets
from pipeline.storage.path import UriPath
from pipeline.sweep.capacity import Capacity, find_capacity
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.folder import check_new, claim_sweep, note_again, only_one, read_sweep, sweep_folder
from pipeline.sweep.plan import Plan
from pipeline.sweep.plots import draw_sweep
from pipeline.sweep.progress import SweepProgress
from pipeline.sweep.report import Report, report_on
from pipeline.sweep.sweep import Sweep, grace_steps
from pipeline.sweep.tracking import SweepTracking, track
from pipeline.sweep.trial import validations
from pipeline.threads import wait_asleep_where_busy
from pipeline.tracking.store import connect
from pipeline.training.origin import source_of, with_source
from pipeline.training.prologue import check_first, check_run, prepared_corpus, public, session

_ENVIRONMENT = {
    # What Tune would write beside our own record, and its demand that every result holds the metric.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Its own tables on the terminal, which `verbose=0` does not keep away otherwise.
    "RAY_AIR_NEW_OUTPUT": "0",
}


Planner = Callable[[RunFolder, RunConfig, Callable[[RunConfig], None], Resources], Plan]
"""Folder of the sweep, run, check of a configuration and resources of a trial → what is trained."""


def tune(
    config: SweepConfig,
    *,
    preset: str,
    command: str,
    console: Console,
    planner: Planner | None = None,
    draw: Callable[[Sweep, Path, Callable[[str], None]], None] = draw_sweep,
) -> tuple[Report, RunFolder, Stopping]:
    """Run the sweep, or the rest of it (`resume`), to its end or until a signal stops it.

    `planner`: what the trials are, drawn from the space without one; `draw`: what is drawn of their results.
    Raises: UserError for what the user can mend, as far as possible before anything is started.
    """
    config, storage, folder = _checked(config, preset)
    run = config.run
    if find_address(run.address) == "local":
        wait_asleep_where_busy()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with ThreadPoolExecutor(1) as aside, SweepProgress(console) as progress, ExitStack() as held:
        if run.resume:
            held.enter_context(only_one(folder, progress.say))
        connecting = aside.submit(connect, run.tracking)
        # Without its dashboard, Tune would never give back what a stopped trial held.
        with session(run, progress, dashboard=True):
            store = connecting.result()
            capacity = find_capacity(config)
            earlier = read_sweep(folder) if run.resume else None
            known = earlier["corpus_sha256"] if earlier else None
            corpus = prepared_corpus(run, storage, capacity.resources, progress, sha256=known)
            config, command = replace(config, run=public(config.run)), without_secrets(command)
            check = partial(check_run, corpus=corpus, resources=capacity.resources)
            plan = planner and planner(folder, config.run, check, capacity.resources)
            sweep = Sweep(folder, config, preset, check, plan)
            sweep.plan.check(sweep)
            if run.resume:
                note_again(folder, config, corpus, sweep.plan.notes)
            else:
                sweep.folder = folder = claim_sweep(storage, config, preset, command, corpus, sweep.plan.notes)
                held.enter_context(only_one(folder, progress.say))
            with track(store, sweep, corpus, command, progress) as tracking:
                progress.begin(sweep, capacity, {name: len(split) for name, split in corpus.splits.items()})
                with stoppable(folder.path) as stopping:
                    search(sweep, capacity, corpus, source_of(run), tracking, progress)
                progress.stage("drawing")
                report = report_on(sweep)
                report.save(folder)
                draw(sweep, folder.plots, progress.say)
                tracking.finish(report)
    return report, folder, stopping


def _checked(config: SweepConfig, preset: str) -> tuple[SweepConfig, Path, RunFolder]:
    """The sweep, where sweeps lie, and its folder, once all is checked that can be before anything is started."""
    check_environment()
    storage = check_storage(config.run.storage)
    if not config.run.resume:
        config = replace(config, run=with_source(config.run))
    require(
        not isinstance(storage, UriPath),
        f"a sweep is kept in a folder: --storage must be a path that all nodes see, got {storage}",
    )
    folder = sweep_folder(storage, config, preset)
    if not config.run.resume:
        check_new(folder, config)
    check_first(config.run)
    return config, storage, folder


def search(
    sweep: Sweep,
    capacity: Capacity,
    corpus: Corpus,
    weights: Path | None,
    tracking: SweepTracking,
    progress: SweepProgress,
) -> None:
    """Ray Tune runs the trials that are left. `weights`: the checkpoint that they begin with."""
    from ray import tune as ray_tune

    from pipeline.sweep.ray_searcher import SweepSearcher, TrialWatch
    from pipeline.sweep.ray_trainable import TrialTraining

    notes = sweep.folder.path / "ray"
    searcher = SweepSearcher(sweep, [tracking, progress])
    # In Ray's memory: what a searcher suggests Tune writes down, and a place may hold a password.
    training = ray_tune.with_parameters(
        TrialTraining, corpus=corpus.folder, weights=weights, resources=capacity.resources
    )
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(training, capacity.of_tune),
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler(sweep), num_samples=-1, max_concurrent_trials=capacity.trials
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(notes),
            verbose=0,
            callbacks=[TrialWatch(sweep, searcher)],
            # Trials keep their own checkpoints.
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=ray_tune.FailureConfig(max_failures=sweep.config.run.retries),
        ),
    )
    try:
        interruptible(tuner.fit)
    finally:
        shutil.rmtree(notes, ignore_errors=True)


def scheduler(sweep: Sweep) -> Any:
    """ASHA by bytes seen, which knows the trials that ended before this start; or none."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    run = sweep.config.run
    if sweep.config.search.scheduler == "none":
        return FIFOScheduler()
    each = run.bytes_per_step
    asha = ASHAScheduler(
        time_attr="bytes",
        metric="validation/bpb",
        mode="min",
        grace_period=grace_steps(run, sweep.config) * each,
        # Nothing is left to be saved at the last step.
        max_t=max(run.training.steps - 1, grace_steps(run, sweep.config)) * each,
        reduction_factor=sweep.config.search.reduction,
        stop_last_trials=False,
    )
    for trial in sweep.trials:
        if trial.state in ("finished", "pruned"):
            earlier: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
            each = sweep.config_of(trial).bytes_per_step
            asha.on_trial_add(None, earlier)  # type: ignore[arg-type]
            for step, bpb in validations(sweep.folder_of(trial), until=trial.step).items():
                asha.on_trial_result(None, earlier, {"bytes": step * each, "validation/bpb": bpb})  # type: ignore[arg-type]
    return asha
