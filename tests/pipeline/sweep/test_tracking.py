"""A trial's result is summed up in its folder whatever MLflow does, and only MLflow's faults are told as MLflow's."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config import RunConfig, TrackingConfig
from pipeline.prepare.prepare import prepare
from pipeline.runs.folder import RunFolder
from pipeline.sweep.config import SearchConfig, SweepConfig
from pipeline.sweep.progress import SweepProgress
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.tracking import SweepTracking
from pipeline.tracking.store import MLflowStore

Tracked = Callable[..., SweepTracking]


@pytest.fixture
def sweep(tmp_path: Path, tiny: Callable[..., RunConfig], train: Callable) -> Sweep:
    """A sweep whose only trial was trained to its end, and is not summed up yet."""
    config = tiny(tmp_path)
    _, trained, _ = train(config)
    (tmp_path / "s").mkdir()
    search = SearchConfig(space=("model.fixed_rank=2",), algorithm="grid", scheduler="none")
    run = replace(config, name="s", local=False)
    sweep = Sweep(RunFolder(tmp_path / "s"), SweepConfig(run=run, search=search), "laptop", lambda _: None)
    trial = sweep.next()
    assert trial
    folder = sweep.folder_of(trial)
    for name in ("metrics.jsonl", "checkpoints"):
        shutil.move(trained.path / name, folder.path / name)
    sweep.update(trial.ended("finished", folder))
    return sweep


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def tracked(sweep: Sweep, said: io.StringIO) -> Tracked:
    corpus = prepare(sweep.config.run.corpus, local=True)

    def track(store: MLflowStore | None) -> SweepTracking:
        return SweepTracking(store, sweep, corpus, "python jobs/tune.py", SweepProgress(Console(file=said, width=400)))

    return track


def test_a_trial_is_summed_up_where_mlflow_does_not_take_it(
    sweep: Sweep, tracked: Tracked, said: io.StringIO, empty_store: Callable[[Path], str], tmp_path: Path
) -> None:
    store = MLflowStore(TrackingConfig(uri=empty_store(tmp_path)))
    [trial] = sweep.trials
    folder, tracking = sweep.folder_of(trial), tracked(store)
    tracking.started(trial)
    noted = folder.mlflow_run()
    assert noted
    store.client.delete_run(noted["run_id"])
    tracking.ended(trial)
    first = folder.summary()
    assert first and first["status"] == "finished" and first["wall_seconds"] > 0 and first["mlflow_run_id"] is None
    assert "MLflow did not take all of the sweep (MLflow's run" in said.getvalue() and "was deleted" in said.getvalue()
    store.client.restore_run(noted["run_id"])
    tracking.ended(trial)  # as at the end of the sweep, where what is missing is sent
    assert folder.summary() == first | {
        "mlflow_run_id": noted["run_id"],
        "mlflow_tracking_uri": store.uri,
        "mlflow_experiment_id": store.experiment_id,
    }
    assert store.client.get_run(noted["run_id"]).info.status == "FINISHED"


def test_a_fault_of_the_summary_is_not_told_as_mlflows(sweep: Sweep, tracked: Tracked, said: io.StringIO) -> None:
    [trial] = sweep.trials
    shutil.rmtree(sweep.folder_of(trial).checkpoints)
    with pytest.raises(AssertionError, match="has a checkpoint"):
        tracked(None).ended(trial)
    assert "MLflow" not in said.getvalue()


def test_without_mlflow_a_trial_is_summed_up_too(sweep: Sweep, tracked: Tracked) -> None:
    [trial] = sweep.trials
    tracked(None).ended(trial)
    summary = sweep.folder_of(trial).summary()
    assert summary and summary["validation_bpb"] == trial.bpb
