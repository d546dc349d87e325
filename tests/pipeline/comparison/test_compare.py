"""Comparing runs: what differs, what they reached, and what must not be compared."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.comparison.compare import OF_A_STATE, OF_SOME, RESULTS, compare
from pipeline.comparison.compared_run import from_folder
from pipeline.comparison.find import experiment_runs, find_runs
from pipeline.comparison.page import page
from pipeline.comparison.table import grid
from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.find import best_bpb
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Journal
from pipeline.tracking.store import MLflowStore
from pipeline.training.summary import Summary

Make = Callable[..., RunConfig]
Train = Callable[[RunConfig], tuple[Summary, RunFolder, str]]


def test_what_differs_and_what_was_reached(tmp_path: Path, tiny: Make, train: Train) -> None:
    small = tiny(tmp_path, tracking={"enabled": True}, training={"steps": 4})
    large = replace(small, name="large", model=replace(small.model, fixed_rank=4))
    large = replace(large, training=replace(large.training, learning_rate=3e-3))
    (one, first, _), (two, second, _) = train(small), train(large)
    runs = find_runs([first.name, str(second.path)], storage=small.storage, tracking=small.tracking)
    comparison = compare(runs)
    assert comparison.differences == {"model.fixed_rank": ["2", "4"], "training.learning_rate": ["0.01", "0.003"]}
    for run, summary in zip(runs, (one, two), strict=True):
        assert run.results["validation bpb"] == summary.validation_bpb and run.results["test bpb"] == summary.test_bpb
        assert run.results["best validation bpb"] == summary.best_validation_bpb
        assert run.results["parameters"] == summary.parameters and run.results["seconds"] == summary.seconds
        assert run.results["bytes seen"] == summary.bytes_seen and run.results["rank"] == summary.rank
        assert run.results["bytes/s"] == pytest.approx(summary.bytes_per_second)
    assert comparison.same_corpus and comparison.notes == []
    assert comparison.best("test bpb") == min(one.test_bpb or 9, two.test_bpb or 9)
    rows = {row[0]: row[1:] for row in grid(comparison)}
    assert rows["run"] == ["run", "large"]
    assert (
        list(rows)[-len(comparison.results) :]
        == comparison.results
        == [name for name in RESULTS if name not in OF_SOME]
    )
    assert len(grid(compare(runs * 3))) == 1 + 6, "many runs are rows"

    # The folder of one is gone: MLflow still knows fields, results and curves, by name and by id.
    assert two.mlflow_run_id
    shutil.rmtree(second.path)
    for reference in ("large", two.mlflow_run_id):
        [lost] = find_runs([reference], storage=small.storage, tracking=small.tracking)
        assert lost.folder is None and lost.mlflow_run_id == two.mlflow_run_id and lost.command == runs[1].command
        assert lost.fields == runs[1].fields
        assert lost.results == pytest.approx(runs[1].results)
        assert lost.records[-1]["bytes_per_second"] == pytest.approx(two.bytes_per_second)
        ours = [record for record in lost.records if "train/bpb" in record]
        assert [record["train/bpb"] for record in ours] == [
            record["train/bpb"] for record in runs[1].records if "train/bpb" in record
        ]

    ranked = experiment_runs("h2q", 9, small.tracking)
    assert sorted(run.name for run in ranked) == ["large", "run"]
    reached = [run.results["validation bpb"] or 9 for run in ranked]
    assert reached == sorted(reached)
    assert [run.name for run in experiment_runs("h2q", 1, small.tracking)] == ["large"], "the newest"

    with pytest.raises(UserError, match=r"no run is called 'lagre'.*nearest: large"):
        find_runs(["lagre"], storage=small.storage, tracking=small.tracking)
    with pytest.raises(UserError, match="no experiment is called 'hq2'; nearest: h2q"):
        experiment_runs("hq2", 1, small.tracking)


def test_looking_makes_no_store(tmp_path: Path) -> None:
    storage, tracking = str(tmp_path / "runs"), TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="there are no runs"):
        find_runs(["anything"], storage=storage, tracking=tracking)
    with pytest.raises(UserError, match="no experiment is called 'h2q'"):
        experiment_runs("h2q", 1, tracking)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "tags", "parameters", "told"),
    [
        ("s", {"sweep": "s"}, {"search.seeds": "1", "space.model.dim": "32,64"}, "is the sweep s: name one of its"),
        ("foreign", {}, {"model.dim": "64", "training.lanes": "many"}, "is a run of another program: name one that"),
    ],
)
def test_a_run_of_mlflow_that_is_no_training_is_called_what_it_is(
    tmp_path: Path,
    empty_store: Callable[[Path], str],
    name: str,
    tags: dict[str, str],
    parameters: dict[str, str],
    told: str,
) -> None:
    tracking = TrackingConfig(uri=empty_store(tmp_path))
    store = MLflowStore(tracking)
    run_id = store.begin_run(name, tags, parameters, began=0.0)
    for reference in (name, run_id):
        with pytest.raises(UserError, match=f"{reference} {told}"):
            find_runs([reference], storage=str(tmp_path), tracking=tracking)
    with pytest.raises(UserError, match="'h2q' has no training runs yet"):
        experiment_runs("h2q", 9, tracking)


def test_bits_per_byte_of_different_corpora_are_not_ranked(tmp_path: Path, tiny: Make, train: Train) -> None:
    config = tiny(tmp_path, training={"steps": 1})
    other = tmp_path / "other.txt"
    other.write_text("A text about something else, line after line after line.\n" * 400)
    _, first, _ = train(config)
    _, second, _ = train(replace(config, name="other", corpus=replace(config.corpus, path=str(other))))
    comparison = compare([from_folder(first), from_folder(second)])
    [note] = comparison.notes
    assert "cannot be compared" in note and "run" in note and "other" in note
    assert comparison.best("test bpb") is None and "<b>" not in page(comparison, b"")


def test_a_run_that_has_not_ended_is_read_from_journal_and_checkpoint(tmp_path: Path, tiny: Make, train: Train) -> None:
    summary, folder, _ = train(tiny(tmp_path, training={"steps": 1}))
    (folder.path / "summary.json").unlink()
    stored = folder.read("config.json") or {}
    del stored["config"]["model"]["init"]
    folder.write("config.json", stored)
    run = from_folder(folder)
    assert "model.init" not in run.fields, "a run older than an option has no value of it"
    assert run.status == "unfinished" and run.corpus_sha256 == summary.corpus_sha256
    assert run.results["parameters"] == summary.parameters and run.results["test bpb"] == summary.test_bpb


def test_a_corpus_that_nobody_noted_is_not_another_one(tmp_path: Path, tiny: Make, train: Train) -> None:
    _, folder, _ = train(tiny(tmp_path, training={"steps": 1}))
    run = from_folder(folder)
    killed = replace(run, name="killed", corpus=None, corpus_sha256=None)
    for comparison in (compare([run, killed]), compare([killed, killed])):
        [note] = comparison.notes
        assert "which corpus killed" in note and "cannot be compared" not in note
        assert comparison.best("test bpb") is None, "it is not ranked either"


def test_a_run_with_a_state_tells_what_it_is_worth_and_counts_its_horizon(
    tmp_path: Path, tiny: Make, train: Train
) -> None:
    config = tiny(tmp_path, model={"mixer": "state"}, training={"horizon": 2, "steps": 4, "evaluate_every": 4})
    summary, folder, _ = train(config)
    [run] = find_runs([folder.name], storage=config.storage, tracking=config.tracking)
    assert run.bytes_per_step == config.bytes_per_step == 4 * 2 * 16
    assert run.results["bytes seen"] == summary.bytes_seen == 4 * run.bytes_per_step
    assert run.results[OF_A_STATE] == summary.test_bpb_reset
    assert OF_A_STATE in {row[0] for row in grid(compare([run]))}


def test_a_run_that_was_stopped_shows_what_was_trained(past_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    """Beyond its last record, that of step 10; one that went on after its summary is no longer what that says."""
    folder = past_run(tmp_path / "run", 2.5, steps=10)
    folder.write_summary((folder.summary() or {}) | {"status": "stopped", "steps": 13, "bytes_seen": 777_777})
    (folder.checkpoints / "step-000000013").mkdir(parents=True)
    run = from_folder(folder)
    assert (run.status, run.results["steps"], run.results["bytes seen"]) == ("stopped", 13, 777_777)
    (folder.checkpoints / "step-000000016").mkdir()
    assert from_folder(folder).status == "unfinished", "killed behind a checkpoint"
    (folder.checkpoints / "step-000000016").rmdir()
    with Journal(folder.journal, first_step=11) as journal:
        journal.write({"step": 20, "time": 12.0, "train/bpb": 1.9})
    assert from_folder(folder).status == "unfinished", "killed behind a record"


@pytest.mark.parametrize("journaled", [[4.0, math.nan, 5.0], [math.nan, 4.0, 5.0], [math.inf, 5.0, 4.0]], ids=repr)
def test_what_is_not_finite_is_never_the_best(
    past_run: Callable[..., RunFolder], tmp_path: Path, journaled: list[float]
) -> None:
    folder = past_run(tmp_path / "run", 6.0)
    with Journal(folder.journal, first_step=0) as journal:
        for step, bpb in enumerate(journaled):
            journal.write({"step": step, "time": 1.0 + step, "validation/bpb": bpb})
    assert from_folder(folder).results["best validation bpb"] == best_bpb(folder) == 4.0
