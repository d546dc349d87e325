"""Tracking: one store, found where the user means it; one run per training."""

import shutil
from pathlib import Path

import pytest

from h2q.config import UserError
from pipeline.config import RunConfig, TrackingConfig
from pipeline.run_folder import RunFolder
from pipeline.tracking import NullTracker, connect, flatten, tracking_uri, ui_address, ui_command


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
