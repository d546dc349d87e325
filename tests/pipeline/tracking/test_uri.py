"""The tracking store is found where the user means it."""

import shutil
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.config import TrackingConfig
from pipeline.tracking.uri import tracking_uri, ui_address, ui_command


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


@pytest.mark.parametrize("uri", ["mlruns?password=hunter2", "file://u:hunter2@h/x", "sqlite:///x?password=hunter2"])
def test_what_is_refused_is_told_without_its_password(uri: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri") as refused:
        tracking_uri(TrackingConfig(uri=uri))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_that_goes_with_its_process_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="must name a file, in which runs stay, got 'sqlite:"):
        tracking_uri(TrackingConfig(uri=uri))


def test_the_ui_command_is_for_the_store() -> None:
    command = ui_command("sqlite:////data/mlflow.db")
    assert command and command.endswith("mlflow ui --backend-store-uri sqlite:////data/mlflow.db")
    assert Path(command.split()[0]).exists() or shutil.which("mlflow") == shutil.which(command.split()[0])
    assert ui_command("http://tracker:5000") is None
    assert ui_address("http://tracker:5000/", "7").startswith("http://tracker:5000/#/experiments/7/runs")
