"""The store: what cannot be one is said at once, and its experiment opens with what matters."""

import json
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.config import TrackingConfig
from pipeline.tracking.store import MLflowStore, check_store, connect
from pipeline.tracking.uri import ui_address


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
