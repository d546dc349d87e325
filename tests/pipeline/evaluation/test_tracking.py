"""What an evaluation says where MLflow does not take it: how to repeat it, and no password."""

from pathlib import Path

import pytest

from pipeline.config import TrackingConfig
from pipeline.evaluation.tracking import log_evaluation
from pipeline.runs.folder import RunFolder


def test_a_server_that_is_away_is_told_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = RunFolder(tmp_path)
    folder.note_mlflow_run("http://127.0.0.1:9", "0" * 32)
    said = log_evaluation(folder, TrackingConfig(uri="http://user:hunter2@127.0.0.1:9"), {}, 1, [])
    assert said is not None and said.endswith("repeat it when http://127.0.0.1:9 answers")
    assert "hunter2" not in said
