"""Resume keeps its word: what it was given, what was read, and a result that stands."""

import json
import os
import runpy
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from h2q.errors import UserError
from pipeline.comparison.compared_run import from_folder, from_mlflow
from pipeline.config import RunConfig, TrackingConfig, TrainingConfig
from pipeline.runs.checkpoint import list_checkpoints, newest_state
from pipeline.runs.folder import RunFolder, claim_folder
from pipeline.runs.journal import read_journal, series
from pipeline.storage.held import held
from pipeline.storage.path import locate, remove_whole
from pipeline.tracking.store import MLflowStore
from pipeline.training.schedule import learning_rate
from pipeline.training.summary import Summary

ROOT = Path(__file__).parents[3]
Make = Callable[..., RunConfig]
Train = Callable[[RunConfig], tuple[Summary, RunFolder, str]]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, tiny: Make, train: Train) -> RunFolder:
    """A run of 12 steps that has ended."""
    return train(tiny(tmp_path_factory.mktemp("once")))[1]


@pytest.fixture
def finished(once: RunFolder, tmp_path: Path, tiny: Make) -> RunFolder:
    """The same run in the test's own folder."""
    folder, stored = RunFolder(tmp_path / "runs" / "run"), once.config()
    shutil.copytree(once.path, folder.path)
    assert stored is not None
    config = replace(RunConfig.from_dict(stored["config"]), storage=str(tmp_path / "runs"))
    folder.note_config(stored["preset"], stored["command"], replace(config, tracking=tiny(tmp_path).tracking))
    return folder


def resumed(folder: RunFolder, **training: object) -> RunConfig:
    """The run in the folder, as `--resume --training.NAME VALUE …` asks for it."""
    stored = folder.config()
    assert stored is not None
    config = RunConfig.from_dict(stored["config"])
    return replace(config, resume=True, training=replace(config.training, **training))


def contents(folder: RunFolder) -> dict[str, tuple[bytes, int]]:
    """Every file that a person would look at, and when it was written."""
    return {
        str(path.relative_to(folder.path)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and path != folder.lock_file
    }


def go_back(folder: RunFolder, step: int) -> None:
    """As if the run had been killed behind its checkpoint of this step."""
    for path in list_checkpoints(folder.checkpoints):
        if int(path.name.removeprefix("step-")) > step:
            remove_whole(path, "commit.json")
    folder.summary_file.unlink()


def test_what_a_resume_was_given_is_kept(finished: RunFolder, train: Train) -> None:
    _, _, said = train(resumed(finished, steps=20))
    assert "from here on: training.steps 12 → 20" in said
    _, _, said = train(resumed(finished, steps=24, axiom_lambda=0.5))
    assert "from here on: training.steps 20 → 24, training.axiom_lambda 0.1 → 0.5" in said
    stored = finished.config()
    assert stored is not None and stored["config"]["training"]["steps"] == 24 and not stored["config"]["resume"]
    assert [(change["step"], list(change["options"])) for change in finished.history()] == [
        (12, ["training.steps"]),
        (20, ["training.steps", "training.axiom_lambda"]),
    ]


def test_an_extension_that_was_interrupted_goes_on_to_its_own_end(finished: RunFolder, train: Train) -> None:
    train(resumed(finished, steps=24))
    go_back(finished, 16)
    summary, _, _ = train(resumed(finished))
    assert (summary.status, summary.steps) == ("finished", 24)
    assert read_journal(finished.journal)[-1]["step"] == 24


def test_a_finished_run_is_left_untouched_and_says_so(tmp_path: Path, tiny: Make, train: Train) -> None:
    """Also by MLflow, which holds its options with the step from which each holds; and it can still be registered."""
    from mlflow.tracking import MlflowClient

    _, folder, _ = train(tiny(tmp_path, tracking={"enabled": True}))
    first, _, _ = train(resumed(folder, steps=20, lanes=8))
    before = contents(folder)
    client = MlflowClient(first.mlflow_tracking_uri)
    tracked = client.get_run(first.mlflow_run_id or "")
    assert tracked.data.tags["option/training.steps"] == "20 from step 12; 12 from step 0"
    second, _, said = train(resumed(folder))
    assert "run run has done all of its 20 steps and is left as it is; raise --training.steps to train on" in said
    assert contents(folder) == before and second == first
    assert client.get_run(tracked.info.run_id).to_dictionary() == tracked.to_dictionary()
    read = 12 * 4 * 16 + 8 * 8 * 16
    assert first.bytes_seen == tracked.data.metrics["bytes_seen"] == read
    for compared in (from_folder(folder), from_mlflow(client, tracked)):
        assert compared.results["bytes seen"] == read
        assert (compared.fields["training.steps"], compared.fields["training.lanes"]) == ("20", "8")
    config = resumed(folder)
    _, _, said = train(replace(config, tracking=replace(config.tracking, register="bytes")))
    assert "registered as models:/bytes/1" in said
    second, _, said = train(resumed(folder))
    assert "registered as models:/bytes/1" in said and second == first


def test_a_finished_run_is_sent_to_the_store_that_a_resume_names(
    tmp_path: Path, finished: RunFolder, train: Train, empty_store: Callable[[Path], str]
) -> None:
    config, elsewhere = resumed(finished), TrackingConfig(uri=empty_store(tmp_path / "other"))
    train(replace(config, tracking=elsewhere))
    store = MLflowStore(elsewhere)
    run_id = store.ended_run(finished)
    assert run_id is not None
    logged = [metric.step for metric in store.client.get_metric_history(run_id, "validation/bpb")]
    assert logged == [6, 12] and resumed(finished).tracking == elsewhere


@pytest.mark.parametrize("other", [{"path": "nowhere"}, {"kind": "bytes"}, {"holdout": 0.2}], ids=str)
def test_a_finished_run_is_not_asked_for_with_another_corpus(
    tmp_path: Path, finished: RunFolder, train: Train, other: dict[str, Any]
) -> None:
    config, before = resumed(finished), contents(finished)
    [(name, value)] = other.items()
    with pytest.raises(UserError, match=rf"corpus\.{name} was .*, now {value}; leave it out, or start another --name"):
        train(replace(config, corpus=replace(config.corpus, **other)))
    elsewhere = replace(config.corpus, prepared=str(tmp_path / "elsewhere"), cache="cache", verify="always")
    assert "is left as it is" in train(replace(config, corpus=elsewhere))[2]
    assert contents(finished) == before


@pytest.mark.parametrize("steps", [1, 11])
def test_an_end_behind_the_checkpoint_is_refused(finished: RunFolder, train: Train, steps: int) -> None:
    before = contents(finished)
    with pytest.raises(UserError, match=rf"training.steps must be at least 12, the steps that run .* got {steps}:"):
        train(resumed(finished, steps=steps))
    assert contents(finished) == before


def test_times_count_over_all_starts(tmp_path: Path, tiny: Make, train: Train) -> None:
    began = time.time()
    first, folder, _ = train(tiny(tmp_path))
    second, _, _ = train(resumed(folder, steps=14))
    passed = time.time() - began
    assert first.wall_seconds and second.wall_seconds
    assert first.seconds < second.seconds < second.wall_seconds and first.wall_seconds < second.wall_seconds < passed
    spent = series(read_journal(folder.journal), "seconds")[1]
    assert spent == sorted(spent) and second.seconds <= spent[-1] < second.wall_seconds, "what a trial is judged by"
    assert second.bytes_per_second == pytest.approx(second.bytes_seen / second.seconds)
    state = newest_state(folder.checkpoints)
    assert state and second.seconds < state[0]["wall_seconds"] < second.wall_seconds, "a kill would lose no more"


def test_half_precision_with_a_loss_scale_may_begin_at_a_resume(finished: RunFolder, train: Train) -> None:
    for precision, steps, fresh in (("fp16", 14, True), ("fp16", 16, False)):
        summary, _, said = train(replace(resumed(finished, steps=steps), precision=precision))
        assert summary.status == "finished"
        assert ("precision fp16: the loss scale starts over" in said) == fresh


def test_how_the_learning_rate_goes_on_is_said_and_may_be_chosen(finished: RunFolder, train: Train) -> None:
    _, _, said = train(resumed(finished, steps=24))
    assert "learning rate 0.001 → 0.0061, along the cosine schedule of 24 steps; with --training.schedule" in said
    _, _, said = train(resumed(finished, steps=36, schedule="warm-down"))
    assert "learning rate from 0.001 down to 0.1 of it at step 36" in said
    _, _, said = train(resumed(finished, steps=40))
    assert "learning rate from 0.0001 down to 0.1 of it at step 40" in said
    rates = dict(zip(*series(read_journal(finished.journal), "learning_rate")))
    assert rates[10] == pytest.approx(learning_rate(10, TrainingConfig(steps=12, warmup=2, learning_rate=1e-2)))
    assert rates[12] == pytest.approx(learning_rate(12, TrainingConfig(steps=24, warmup=2, learning_rate=1e-2)))
    assert rates[24] == pytest.approx(1e-3) and rates[36] == pytest.approx(1e-4)
    assert all(later < earlier for earlier, later in pairwise(list(rates.values())[12:]))


def test_a_start_without_any_checkpoint_says_that_it_begins_at_0(finished: RunFolder, train: Train) -> None:
    go_back(finished, 0)
    summary, _, said = train(resumed(finished))
    assert "no checkpoint yet: starting at step 0" in said and summary.steps == 12


def test_a_run_that_trains_is_trained_by_nobody_else(finished: RunFolder, train: Train) -> None:
    before = contents(finished)
    with held(finished.lock_file), pytest.raises(UserError) as refused:
        train(resumed(finished, steps=20))
    assert f"run run is being trained by process {os.getpid()} on " in str(refused.value)
    assert contents(finished) == before
    assert train(resumed(finished, steps=20))[0].steps == 20


def test_unnamed_runs_of_one_second_all_start(tmp_path: Path, tiny: Make, train: Train) -> None:
    config = tiny(tmp_path, name=None, training={"steps": 1})
    folders = {train(config)[1].name for _ in range(3)}
    assert len(folders) == 3
    assert all(json.loads((tmp_path / "runs" / name / "config.json").read_text()) for name in folders)


def test_the_run_to_go_on_with_may_lie_on_a_store(store: Any) -> None:
    configure = runpy.run_path(str(ROOT / "jobs" / "train.py"))["configure"]
    uri = store.uri("bucket/resumed")
    preset, config = configure(["--model.depth", "2", "--name", "one", "--storage", uri])
    claim_folder(locate(uri), config, preset, "")
    resumed = configure(["--resume", "--storage", uri])[1]
    assert (resumed.storage, resumed.name, resumed.model) == (uri, "one", config.model)
