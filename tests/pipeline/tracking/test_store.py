"""Tracking: one store, found where the user means it; one run per training."""

import json
import shutil
import time
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.tracking.store import (
    MLflowRun,
    MLflowStore,
    NullTracker,
    check_store,
    connect,
    flatten,
    follow,
    tracking_uri,
    ui_address,
    ui_command,
)


def test_the_option_comes_before_the_environment_before_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingConfig()) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(TrackingConfig()) == "http://127.0.0.1:5000"
    assert tracking_uri(TrackingConfig(uri="sqlite:///mine.db")) == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
def test_a_folder_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="must be a database or a server"):
        tracking_uri(TrackingConfig(uri=uri))


def test_a_server_that_is_away_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9.*--tracking\.no-enabled"):
        connect(TrackingConfig(uri="http://127.0.0.1:9"))


def test_a_file_that_cannot_be_a_store_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database")
    with pytest.raises(UserError, match=r"notes\.db is not a SQLite database\).*--tracking\.no-enabled"):
        check_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/notes.db"))
    with pytest.raises(UserError, match=r"notes\.db cannot be written to"):
        check_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/notes.db/mlflow.db"))


def test_a_store_in_a_folder_that_is_not_there_yet_is_made_when_it_is_opened(tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/a/new/folder/mlflow.db")
    check_store(config)
    assert not (tmp_path / "a").exists(), "looking makes nothing"
    assert MLflowStore(config).experiment_id
    check_store(config)


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
    run.finish(path, "FINISHED")
    [found] = tmp_path.glob("mlartifacts/h2q/*/artifacts/config.json")
    assert found.read_text() == (path / "config.json").read_text()


def test_no_tracking_is_a_tracker_too(tmp_path: Path) -> None:
    tracker = connect(TrackingConfig(enabled=False))
    assert isinstance(tracker, NullTracker)
    assert tracker.run().run_id is None


def test_nested_options_are_parameters_by_their_path() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}


def test_the_ui_command_is_for_the_store() -> None:
    command = ui_command("sqlite:////data/mlflow.db")
    assert command and command.endswith("mlflow ui --backend-store-uri sqlite:////data/mlflow.db")
    assert Path(command.split()[0]).exists() or shutil.which("mlflow") == shutil.which(command.split()[0])
    assert ui_command("http://tracker:5000") is None
    assert ui_address("http://tracker:5000/", "7").startswith("http://tracker:5000/#/experiments/7/runs")


def test_the_link_opens_the_columns_and_charts_that_matter(tmp_path: Path) -> None:
    store = connect(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="an experiment"))
    assert isinstance(store, MLflowStore)
    key = ui_address(store.uri, store.experiment_id).partition("viewStateShareKey=")[2]
    state = json.loads(store.client.get_experiment(store.experiment_id).tags[f"mlflow.sharedViewState.{key}"])
    assert {"metrics.`validation/bpb`", "metrics.`test/bpb`", "params.`model.fixed_rank`"} <= set(
        state["selectedColumns"]
    )
    sections = [section["name"] for section in state["compareRunSections"]]
    assert sections.index("bits per byte") < sections.index("growth") < sections.index("energy")
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= {
        section["uuid"] for section in state["compareRunSections"]
    }
    # A store that an older version has made gets the view too; what its user wrote is left alone.
    store.client.set_experiment_tag(store.experiment_id, "mlflow.note.content", "mine")
    store.client.set_experiment_tag(store.experiment_id, f"mlflow.sharedViewState.{key}", "{}")
    again = MLflowStore(TrackingConfig(uri=store.uri, experiment="an experiment"))
    tags = again.client.get_experiment(store.experiment_id).tags
    assert json.loads(tags[f"mlflow.sharedViewState.{key}"]) == state and tags["mlflow.note.content"] == "mine"


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
        run.finish(path, "FINISHED")
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
        run.finish(path, "FINISHED")
    assert run.run_id
    inputs = store.client.get_run(run.run_id).inputs
    [dataset] = inputs.dataset_inputs if inputs else []
    assert (dataset.dataset.name, dataset.dataset.digest) == ("a corpus", "0123456789abcdef")
    seen = store.client.get_metric_history(run.run_id, "bytes_seen")
    assert [(metric.step, metric.value) for metric in seen] == [(5, 500), (9, 900)]
    params = store.client.get_run(run.run_id).data.params
    assert params["model.dim"] == "768" and not {"storage", "tracking.uri", "corpus.cache"} & set(params)
