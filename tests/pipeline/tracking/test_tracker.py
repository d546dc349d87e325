"""One training is one run of MLflow's, however often it is resumed: how long it took, and what came out."""

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison.compared_run import from_mlflow
from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.tracking.store import MLflowStore, connect
from pipeline.tracking.tracker import NullTracker, Tracker, track_run


def tracked(store: MLflowStore | None, folder: RunFolder, began: float = 0.0) -> Tracker:
    """The run that tracks the folder."""
    return track_run(store, folder, RunConfig(), "a corpus", "0123456789abcdef" * 4, "a command", "laptop", began=began)


def run_of(store: MLflowStore, tracker: Tracker) -> Any:
    assert tracker.run_id
    return store.client.get_run(tracker.run_id)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "runs" / "one"
    path.mkdir(parents=True)
    return RunFolder(path)


def test_a_record_is_logged_once_whoever_logs_it(store: MLflowStore, folder: RunFolder) -> None:
    records = [{"step": step, "time": 1.0 + step, "train/bpb": 8.0 - step} for step in range(3)]
    tracker = tracked(store, folder)
    tracker.log(records[:2])
    tracker.log(records[:2])
    again = tracked(store, folder)
    again.log(records)
    assert again.run_id == tracker.run_id
    history = store.client.get_metric_history(again.run_id or "", "train/bpb")
    assert [(metric.step, metric.value) for metric in history] == [(0, 8.0), (1, 7.0), (2, 6.0)]


def test_of_a_step_that_is_trained_again_the_newer_value_counts(store: MLflowStore, folder: RunFolder) -> None:
    """In the process that goes back to a checkpoint, and in one that resumes the run with other options."""
    attempts = [
        [{"step": step, "time": 100.0 * number + step, "train/bpb": 10.0 * number + step} for step in range(number, 4)]
        for number in range(3)
    ]
    tracker = tracked(store, folder)
    for attempt in (*attempts[:2], attempts[1]):
        tracker.log(attempt)
    tracker = tracked(store, folder)
    for attempt in (attempts[1], attempts[2], attempts[2]):
        tracker.log(attempt)
    run = run_of(store, tracker)
    history = store.client.get_metric_history(run.info.run_id, "train/bpb")
    assert len(history) == 4 + 3 + 2, "each once"
    assert run.data.metrics["train/bpb"] == 23.0
    compared = from_mlflow(store.client, run)
    assert [(record["step"], record["train/bpb"]) for record in compared.records] == [(0, 0), (1, 11), (2, 22), (3, 23)]


def test_what_a_step_that_is_trained_again_only_repeats_is_not_logged_twice(
    store: MLflowStore, folder: RunFolder
) -> None:
    """As behind a worker that was lost; nor is what has no bits per byte, as where all gradients were not finite."""
    for attempt in (0.0, 100.0):
        tracker = tracked(store, folder)
        records = [{"step": 2, "time": attempt + 2, "bytes_seen": 64, "skipped_steps": 2}]
        tracker.log([*records, {"step": 4, "time": attempt + 4, "bytes_seen": 128, "train/bpb": 0.1 + 0.2}])
    run_id = tracker.run_id or ""
    logged = [[one.step for one in store.client.get_metric_history(run_id, key)] for key in ("bytes_seen", "train/bpb")]
    assert logged == [[2, 4], [4]]


def test_artifacts_lie_beside_the_database_and_nowhere_else(
    store: MLflowStore, folder: RunFolder, tmp_path: Path
) -> None:
    folder.write("config.json", {"a": 1})
    tracked(store, folder).finish(folder, "finished")
    [found] = tmp_path.glob("mlartifacts/h2q/*/artifacts/config.json")
    assert found.read_text() == (folder.path / "config.json").read_text()


def test_no_tracking_is_a_tracker_too(folder: RunFolder) -> None:
    assert connect(TrackingConfig(enabled=False)) is None
    tracker = tracked(None, folder)
    assert isinstance(tracker, NullTracker) and tracker.run_id is None


def test_the_load_of_the_machine_goes_on_where_it_left_off(
    store: MLflowStore, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    for logged in (2, 4):
        run = tracked(store, folder)

        def steps(run_id: str = run.run_id or "") -> list[int]:
            history = store.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
            return [metric.step for metric in history]

        with run.watch():
            while len(steps()) < logged:
                time.sleep(0.05)
        run.finish(folder, "finished")
        assert steps() == list(range(len(steps())))


def test_a_run_says_what_it_was_trained_on_and_how_large_it_is(store: MLflowStore, folder: RunFolder) -> None:
    for steps in (5, 5, 9):  # ended, resumed without a step to do, resumed for more
        tracker = tracked(store, folder)
        folder.write(
            "summary.json",
            {"status": "finished", "steps": steps, "parameters": 7, "bytes_seen": 100 * steps, "seconds": 1.5},
        )
        tracker.finish(folder, "finished")
    run = run_of(store, tracker)
    [dataset] = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("a corpus", "0123456789abcdef")
    seen = store.client.get_metric_history(run.info.run_id, "bytes_seen")
    assert [(metric.step, metric.value) for metric in seen] == [(5, 500), (9, 900)]
    assert run.data.params["model.dim"] == "768"
    assert not {"storage", "tracking.uri", "corpus.cache"} & set(run.data.params)


def test_a_run_took_as_long_as_its_training(store: MLflowStore, folder: RunFolder) -> None:
    """From the start that it is told, not from when the store was first asked; and, where it is sent later, to its last
    record."""
    now = time.time()
    tracker = tracked(store, folder, began=now - 100)
    tracker.log([{"step": 1, "time": time.time(), "train/bpb": 3.0}])
    tracker.finish(folder, "finished")
    info = run_of(store, tracker).info
    assert info.start_time == int((now - 100) * 1000) and info.end_time >= int(now * 1000)

    late = RunFolder(folder.path.parent / "late")
    late.path.mkdir()
    sent = tracked(store, late, began=1000.0)
    sent.log([{"step": 1, "time": 1059.0, "train/bpb": 3.0}])
    sent.finish(late, "finished")
    info = run_of(store, sent).info
    assert (info.start_time, info.end_time) == (1_000_000, 1_059_000)


def test_the_description_ends_with_the_result_of_the_last_end(store: MLflowStore, folder: RunFolder) -> None:
    result = {"steps": 5, "validation_bpb": 2.5, "error": "its process was lost"}
    tracked(store, folder).finish(folder, "failed", result)
    tracker = tracked(store, folder)
    described = "mlflow.note.content"
    failed = run_of(store, tracker).data.tags
    assert failed["state"] == "failed" and failed[described].endswith("Error: its process was lost")
    store.client.set_tag(tracker.run_id or "", described, f"Mine.\n\n{failed[described]}")
    summary = {"status": "finished", "steps": 9, "parameters": 7, "bytes_seen": 900, "seconds": 1.5}
    summary |= {"validation_bpb": 2.25, "test_bpb": 2.5}
    folder.write("summary.json", {**summary, "sample": "One line\n# and <b>another"})
    tracker.finish(folder, "finished")
    run = run_of(store, tracker)
    told = run.data.tags[described]
    assert told.startswith("Mine.\n\n`a command`") and told.count("## Result") == 1 and "lost" not in told
    for word in ("Finished: 9 steps, 900 bytes seen, 7 parameters", "**2.2500** on validation, **2.5000** on test"):
        assert word in told
    assert told.endswith("\n\n    One line\n    # and <b>another"), "as it is, whatever it holds"
    assert run.info.status == "FINISHED" and run.data.tags["state"] == "finished"


@pytest.mark.parametrize(("state", "status"), [("pruned", "KILLED"), ("stopped", "KILLED"), ("failed", "FAILED")])
def test_how_a_run_ended_is_told_in_one_word(store: MLflowStore, folder: RunFolder, state: str, status: str) -> None:
    tracker = tracked(store, folder)
    tracker.finish(folder, state, {"steps": 3})
    run = run_of(store, tracker)
    assert run.info.status == status and run.data.tags["state"] == state
    assert run.data.tags["mlflow.note.content"].endswith(f"{state.capitalize()}: 3 steps")
