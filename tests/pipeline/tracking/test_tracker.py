"""One training is one run of MLflow's, however often it is resumed and whenever its store answers."""

import time
from pathlib import Path

import pytest

from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.tracking.store import MLflowStore, connect, follow
from pipeline.tracking.tracker import MLflowRun, NullTracker


def test_a_store_that_fails_at_first_gets_all_records_later_and_each_once(tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    folder, tries = RunFolder(tmp_path), []

    def begin(store: MLflowStore) -> MLflowRun:
        tries.append(store)
        if len(tries) == 1:
            raise ConnectionError("away")
        return store.run(folder, RunConfig(), "a corpus", "0" * 64, "a command", "laptop")

    tracker = follow(config, begin)
    records = [{"step": step, "time": 1.0 + step, "train/bpb": 8.0 - step} for step in range(3)]
    assert (tracker.run_id, tries) == (None, [])
    with pytest.raises(ConnectionError):
        tracker.log(records[:1])
    tracker.log(records[:2])
    tracker.log(records)
    assert tracker.run_id and len(tries) == 2
    history = tries[1].client.get_metric_history(tracker.run_id, "train/bpb")
    assert [(metric.step, metric.value) for metric in history] == [(0, 8.0), (1, 7.0), (2, 6.0)]


def test_artifacts_lie_beside_the_database_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    path.mkdir(parents=True)
    store = connect(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"))
    folder = RunFolder(path)
    folder.write("config.json", {"a": 1})
    run = store.run(folder, RunConfig(), "a corpus", "0" * 64, "a command", "laptop")
    run.finish(RunFolder(path), "FINISHED")
    [found] = tmp_path.glob("mlartifacts/h2q/*/artifacts/config.json")
    assert found.read_text() == (path / "config.json").read_text()


def test_no_tracking_is_a_tracker_too(tmp_path: Path) -> None:
    tracker = connect(TrackingConfig(enabled=False))
    assert isinstance(tracker, NullTracker)
    assert tracker.run().run_id is None


def test_the_load_of_the_machine_goes_on_where_it_left_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    path = tmp_path / "one"
    path.mkdir()
    store = connect(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"))
    assert isinstance(store, MLflowStore)
    for logged in (2, 4):
        run = store.run(RunFolder(path), RunConfig(), "a corpus", "0" * 64, "a command", "laptop")
        assert run.run_id

        def steps(run_id: str = run.run_id) -> list[int]:
            history = store.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
            return [metric.step for metric in history]

        with run.watch():
            while len(steps()) < logged:
                time.sleep(0.05)
        run.finish(RunFolder(path), "FINISHED")
        assert steps() == list(range(len(steps())))


def test_a_run_says_what_it_was_trained_on_and_how_large_it_is(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.mkdir()
    store = connect(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"))
    assert isinstance(store, MLflowStore)
    folder = RunFolder(path)
    for steps in (5, 5, 9):  # ended, resumed without a step to do, resumed for more
        run = store.run(folder, RunConfig(), "a corpus", "0123456789abcdef" * 4, "a command", "laptop")
        folder.write("summary.json", {"steps": steps, "parameters": 7, "bytes_seen": 100 * steps, "seconds": 1.5})
        run.finish(RunFolder(path), "FINISHED")
    assert run.run_id
    inputs = store.client.get_run(run.run_id).inputs
    [dataset] = inputs.dataset_inputs if inputs else []
    assert (dataset.dataset.name, dataset.dataset.digest) == ("a corpus", "0123456789abcdef")
    seen = store.client.get_metric_history(run.run_id, "bytes_seen")
    assert [(metric.step, metric.value) for metric in seen] == [(5, 500), (9, 900)]
    params = store.client.get_run(run.run_id).data.params
    assert params["model.dim"] == "768" and not {"storage", "tracking.uri", "corpus.cache"} & set(params)
