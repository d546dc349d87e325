"""The store: its experiment opens with what matters, and what was deleted there is said before anything starts."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from h2q.errors import UserError
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.tracking.store import MLflowStore
from pipeline.tracking.tracker import Tracker, track_run
from pipeline.tracking.uri import ui_address


def test_the_link_opens_the_columns_and_charts_that_matter(store: MLflowStore) -> None:
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
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`validation/bpb`", True), "the best first"
    # A store that an older version has made gets the view too; what its user wrote is left alone.
    store.client.set_experiment_tag(store.experiment_id, "mlflow.note.content", "mine")
    store.client.set_experiment_tag(store.experiment_id, f"mlflow.sharedViewState.{key}", "{}")
    again = MLflowStore(TrackingConfig(uri=store.uri))
    tags = again.client.get_experiment(store.experiment_id).tags
    assert json.loads(tags[f"mlflow.sharedViewState.{key}"]) == state and tags["mlflow.note.content"] == "mine"


def follow_advice(error: UserError) -> None:
    """Do what the command does that the error gives: a variable, a program, its words."""
    from mlflow.cli import cli

    command = re.search(r"restore it with (.*?), or ", str(error))
    assert command
    setting, program, *words = shlex.split(command[1])
    name, _, value = setting.partition("=")
    assert Path(program).name == "mlflow"
    assert CliRunner().invoke(cli, words, env={name: value}).exit_code == 0


def test_a_deleted_experiment_is_said_with_the_command_that_restores_it(store: MLflowStore) -> None:
    config = TrackingConfig(uri=store.uri)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(UserError, match=r"experiment h2q was deleted.*--tracking\.experiment") as told:
        MLflowStore(config)
    follow_advice(told.value)
    assert MLflowStore(config).experiment_id == store.experiment_id


def test_a_deleted_run_is_said_with_both_ways_out(store: MLflowStore, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one run")
    folder.path.mkdir()

    def tracked() -> Tracker:
        return track_run(store, folder, RunConfig(), "a corpus", "0" * 64, "a command", "laptop", began=1.0)

    first = tracked().run_id
    assert first
    store.client.delete_run(first)
    with pytest.raises(UserError, match="was deleted") as told:
        tracked()
    follow_advice(told.value)
    assert tracked().run_id == first
    store.client.delete_run(first)
    remove = re.search(r"or remove (.*) to track it as a new run", str(told.value))
    assert remove
    Path(shlex.split(shlex.quote(remove[1]))[0]).unlink()
    assert tracked().run_id != first
    folder.note_mlflow_run(store.uri, "0" * 32)
    with pytest.raises(UserError, match=f"has no run {'0' * 32} any more: remove .*mlflow.json"):
        tracked()


def test_names_that_are_not_utf8_are_tracked(store: MLflowStore, tmp_path: Path) -> None:
    odd, shown = f"{tmp_path}/caf\udce9", rf"{tmp_path}/caf\udce9"
    folder, config = RunFolder(Path(odd)), RunConfig(corpus=CorpusConfig(path=odd))
    folder.path.mkdir()
    run_id = track_run(store, folder, config, "a corpus", "0" * 64, f"train {odd}", "laptop", began=1.0).run_id
    data = store.client.get_run(run_id or "").data
    assert data.params["corpus.path"] == data.tags["run_folder"] == shown
    assert data.tags["mlflow.runName"] == r"caf\udce9" and shown in data.tags["mlflow.note.content"]
