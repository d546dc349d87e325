"""One line from raw bytes to a tracked run: in this process, under Ray, and after an interruption."""

import gzip
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from rich.console import Console

from h2q.errors import UserError
from pipeline.comparison.compared_run import from_mlflow
from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.checkpoint import Checkpoint, checkpoint_folder, list_checkpoints, newest_valid, read_checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record, read_journal, series
from pipeline.runs.load import run_config
from pipeline.runs.state import state_of
from pipeline.runs.stop import StopSignal, request_stop
from pipeline.tracking.store import MLflowStore
from pipeline.tracking.tracker import track_run
from pipeline.training import driver
from pipeline.training.progress import Progress
from pipeline.training.summary import Summary

Make = Callable[..., RunConfig]
Trained = tuple[Summary, RunFolder, str]
Train = Callable[..., Trained]

ALL: dict[str, Any] = {
    "model": {"mixer": "both", "memory": "reversible"},
    "growing": True,
    "accumulate": 2,
}
TIMES = {"time", "seconds", "evaluation_seconds", "bytes_per_second", "memory/peak_bytes", "mfu"}


def final(folder: RunFolder) -> Checkpoint:
    found = newest_valid(folder.checkpoints)
    assert found is not None
    return found[0]


def history(folder: RunFolder) -> list[Record]:
    """The journal without what depends on the clock."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_journal(folder.journal)]


def assert_same(one: RunFolder, other: RunFolder) -> None:
    """Bit-equal weights, optimizer, growth and metric history."""
    left, right = final(one), final(other)
    for kind in ("model", "optimizer", "carried"):
        mine, yours = getattr(left, kind), getattr(right, kind)
        assert mine.keys() == yours.keys()
        for name in mine:
            assert torch.equal(mine[name], yours[name]), name
    for name in ("step", "best", "growth", "scaler", "losses"):
        assert left.state[name] == right.state[name], name
    assert history(one) == history(other)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def tracked(place: Path, tiny: Make, train: Train) -> Trained:
    """A run with all that a run leaves."""
    return train(tiny(place, tracking={"enabled": True}), pictures=True)


def test_a_run_leaves_all_that_it_promises(place: Path, tiny: Make, tracked: Trained) -> None:
    summary, folder, said = tracked
    promised = (
        "name preset corpus corpus_sha256 parameters steps bytes_seen train_bpb validation_bpb test_bpb "
        "bytes_per_second peak_memory_bytes seconds world_size device precision checkpoint "
        "mlflow_run_id mlflow_tracking_uri"
    )
    written = json.loads((folder.path / "summary.json").read_text())
    assert set(promised.split()) <= set(written)
    assert (summary.steps, summary.bytes_seen) == (12, 12 * 4 * 16)
    assert summary.validation_bpb and 2 < summary.validation_bpb < 8 and summary.test_bpb and 2 < summary.test_bpb < 8
    assert read_checkpoint(Path(summary.checkpoint)).state["step"] == 12
    for name in ("config.json", "plots/curves.png", "plots/energy.png", "samples/step-000000012.txt"):
        assert (folder.path / name).stat().st_size > 0, name
    assert RunConfig.from_dict(json.loads((folder.path / "config.json").read_text())["config"]) == replace(
        tiny(place, tracking={"enabled": True}), threads=torch.get_num_threads()
    )
    for word in ("order-0 entropy", "gzip", "xz", summary.corpus_sha256[:16], "mlflow ui --backend-store-uri"):
        assert word in said
    last = read_journal(folder.journal)[-2]
    for name in ("train/bpb", "objective", "axiom", "energy/block_00", "energy/block_01", "gradient_norm"):
        assert name in last, name


def test_every_metric_is_in_mlflow_once(tracked: Trained) -> None:
    from mlflow.tracking import MlflowClient

    summary, folder, _ = tracked
    client = MlflowClient(summary.mlflow_tracking_uri)
    run = client.get_run(summary.mlflow_run_id or "")
    for name in ("train/bpb", "validation/bpb", "test/bpb", "energy/block_01", "learning_rate", "memory/peak_bytes"):
        wanted = [(record["step"], record[name]) for record in read_journal(folder.journal) if name in record]
        logged = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert logged == wanted and wanted, name
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["model.dim"] == "32" and run.data.params["training.axiom_lambda"] == "0.1"
    assert run.data.tags["corpus_sha256"] == summary.corpus_sha256
    assert run.data.tags["version/torch"] == torch.__version__
    assert "python jobs/train.py tiny" in run.data.tags["mlflow.note.content"]
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"config.json", "summary.json", "metrics.jsonl", "plots", "samples"} <= artifacts


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, (4, 6)),  # before the first evaluation and growth, and behind them
        pytest.param({"growing": True}, (4,), marks=pytest.mark.ray),
        ({"accumulate": 2, "training": {"windows": "random", "save_every": 3}}, (4,)),
        pytest.param({"precision": "bf16"}, (4,), marks=pytest.mark.ray),
        ({"precision": "fp16"}, (4,)),
        pytest.param({"model": {"memory": "reversible"}}, (4,), marks=pytest.mark.ray),
        ({"model": {"mixer": "state"}, "training": {"cold_starts": 0.3, "reset_at": "document", "horizon": 2}}, (4,)),
        (ALL, (4,)),
        pytest.param(ALL, (6,), marks=pytest.mark.ray),
        pytest.param({"model": {"factors": "per-block"}, "growing": True}, (4,), marks=pytest.mark.ray),
        ({"model": {"kind": "btt", "mixer": "state", "ngrams": "2:9x4"}}, (4,)),  # each core at a rate of its own
    ],
    ids=[
        *("plain", "growing", "accumulate-random", "bf16", "fp16", "reversible", "state", "both", "both-later"),
        *("per-block", "btt"),
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, tiny: Make, train: Train, changes: dict[str, Any], steps: tuple[int, ...]
) -> None:
    assert_resumes_exactly(tiny(tmp_path, **changes), steps, train)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["store", "reversible"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_on_a_gpu_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, tiny: Make, train: Train, precision: str, memory: str
) -> None:
    config = tiny(tmp_path, growing=True, accumulate=2, precision=precision, use_gpu="yes", model={"memory": memory})
    assert_resumes_exactly(config, (6,), train)


def assert_resumes_exactly(whole: RunConfig, steps: tuple[int, ...], train: Train) -> None:
    """A run that goes on from the checkpoint nearest to each of the steps ends as one that was never interrupted."""
    assert_goes_on_exactly(whole, train(whole)[1], steps, train)


def assert_goes_on_exactly(whole: RunConfig, uninterrupted: RunFolder, steps: tuple[int, ...], train: Train) -> None:
    for at in steps:
        stop = min(list_checkpoints(uninterrupted.checkpoints), key=lambda path, at=at: abs(_step(path) - at))
        interrupted = RunFolder(uninterrupted.path.parent / f"interrupted-{at}")
        (interrupted.path / "checkpoints").mkdir(parents=True)
        # As a kill leaves it: a checkpoint, and a journal that had gone on beyond it.
        shutil.copytree(stop, interrupted.checkpoints / stop.name)
        for name in ("config.json", "metrics.jsonl"):
            shutil.copy(uninterrupted.path / name, interrupted.path / name)
        _, _, said = train(replace(whole, name=interrupted.path.name, resume=True))
        assert f"continuing at step {_step(stop)}" in said
        assert_same(uninterrupted, interrupted)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def test_growth_happened_where_growth_is_tested(tmp_path: Path, tiny: Make, train: Train) -> None:
    summary, folder, _ = train(tiny(tmp_path, growing=True))
    assert final(folder).state["growth"]["grown_at"] == [3, 6, 9]
    assert summary.rank == 4


def test_when_losses_are_looked_at_changes_no_weight(tmp_path: Path, tiny: Make, train: Train) -> None:
    """Not by a log, nor by a save off its grid: a new rank warms up by the steps that it has trained."""
    rare, often = (
        train(tiny(tmp_path, name=name, growing=True, training={"log_every": every, "save_every": save}))[1]
        for name, every, save in (("rare", 6, 12), ("often", 1, 5))
    )
    one, other = final(rare), final(often)
    assert one.state["growth"] == other.state["growth"]
    assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())


def test_a_resumed_run_is_one_run_in_mlflow(tmp_path: Path, tiny: Make, train: Train) -> None:
    """What is only repeated is logged once; of what comes out otherwise the newer values count."""
    from mlflow.tracking import MlflowClient

    config = tiny(tmp_path, tracking={"enabled": True})
    first, folder, _ = train(config)
    client = MlflowClient(first.mlflow_tracking_uri)

    def resumed(rate: float) -> list[int]:
        for path in list_checkpoints(folder.checkpoints)[:-1]:
            shutil.rmtree(path)  # as if it had been killed after its first checkpoint
        summary, _, _ = train(replace(config, resume=True, training=replace(config.training, learning_rate=rate)))
        assert summary.mlflow_run_id == first.mlflow_run_id
        return [metric.step for metric in client.get_metric_history(first.mlflow_run_id or "", "train/bpb")]

    assert resumed(config.training.learning_rate) == [0, 2, 4, 6, 8, 10, 12]
    assert resumed(5 * config.training.learning_rate) == [0, 2, 4, 6, 8, 10, 12, 4, 6, 8, 10, 12]
    compared = from_mlflow(client, client.get_run(first.mlflow_run_id or ""))
    for name in ("train/bpb", "learning_rate", "validation/bpb"):
        assert series(compared.records, name) == series(read_journal(folder.journal), name)


def test_pictures_that_mlflow_does_not_take_are_told_of_and_stay(
    tmp_path: Path, tiny: Make, past_run: Callable[..., RunFolder]
) -> None:
    """The database answers, the place of its artifacts does not."""
    config = tiny(tmp_path, tracking={"enabled": True})
    folder, said = past_run(tmp_path / "runs" / "run", 2.0), StringIO()
    folder.samples.mkdir()
    (folder.samples / "step-000000100.txt").write_text("A sample.")
    store = MLflowStore(config.tracking)
    tracker = track_run(store, folder, config, "a corpus", "ab", "", "tiny", began=0.0)
    kept = Path(urlsplit(str(store.client.get_run(tracker.run_id or "").info.artifact_uri)).path)
    with Progress(Console(file=said, width=1000), config) as progress:
        driver._attach(tracker, folder, progress)
        assert said.getvalue() == "" and (kept / "samples" / "step-000000100.txt").exists()
        shutil.rmtree(kept)
        kept.write_text("no folder")
        driver._attach(tracker, folder, progress)
    [line] = said.getvalue().splitlines()
    assert line.startswith("MLflow did not take the run's pictures and samples (") and str(folder.path) in line


def test_a_store_that_mlflow_refuses_starts_nothing(tmp_path: Path, tiny: Make, train: Train) -> None:
    good = TrackingConfig(uri=f"sqlite:///{tmp_path}/good.db")
    MLflowStore(good)
    shutil.copy(tmp_path / "good.db", tmp_path / "old.db")
    with closing(sqlite3.connect(tmp_path / "old.db")) as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
        database.commit()
    config = tiny(tmp_path, tracking={"enabled": True, "uri": f"sqlite:///{tmp_path}/old.db"})
    with pytest.raises(UserError, match=r"old\.db.*out-of-date database schema.*move .*old\.db away"):
        train(config)
    assert not list((tmp_path / "runs").iterdir())


def test_a_resumed_run_must_be_the_same_model_and_corpus(tmp_path: Path, tiny: Make, train: Train) -> None:
    config = tiny(tmp_path, training={"steps": 4})
    train(config)
    resumed = replace(config, resume=True, training=replace(config.training, steps=8))
    with pytest.raises(UserError, match=r"model\.depth was 2, now 3"):
        train(replace(resumed, model=replace(config.model, depth=3)))
    (tmp_path / "other.txt").write_text("Another text. " * 900)
    with pytest.raises(UserError, match="resume needs the corpus of the run"):
        train(replace(resumed, corpus=replace(config.corpus, path=str(tmp_path / "other.txt"))))


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, tiny: Make, train: Train) -> None:
    config = tiny(tmp_path)
    _, folder, _ = train(config)
    (checkpoint_folder(folder.checkpoints, 12) / "model.safetensors").write_bytes(b"damaged")
    _, _, said = train(replace(config, resume=True))
    assert "damaged checkpoint passed over" in said and "step-000000012: model.safetensors: 7 bytes" in said
    assert "continuing at step 8" in said


@pytest.mark.parametrize("suffix", [".wav", ".png", ""])
def test_samples_of_bytes_are_files_like_those_read(tmp_path: Path, tiny: Make, train: Train, suffix: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / "in" / f"{number:02d}{suffix}").write_bytes(b"RIFF\xff\x00" + bytes([number]) * 1000)
    corpus = {"path": str(tmp_path / "in"), "kind": "bytes"}
    summary, folder, said = train(tiny(tmp_path, training={"steps": 1}, corpus=corpus))
    sample = folder.samples / f"step-000000001{suffix or '.bin'}"
    assert sample.read_bytes().startswith(b"RIFF\xff\x00") and sample.stat().st_size == 64 + 20
    assert summary.sample is None and str(sample) in said.replace("\n", "")
    assert not any(word in said for word in ("UTF-8", "letters"))


def test_a_split_that_is_scored_whole_is_not_called_its_first_bytes(tmp_path: Path, tiny: Make, train: Train) -> None:
    for name, size, whole in (("all", 1 << 30, ["validation", "test"]), ("first", 50, [])):
        config = tiny(tmp_path, training={"steps": 1, "evaluate_bytes": size})
        summary, _, said = train(replace(config, name=name))
        assert summary.whole == whole and summary.evaluated_bytes == (None if whole else size)
        assert ("first 50 bytes" in said) != bool(whole) and "first 1,0" not in said


def test_a_name_is_used_once(tmp_path: Path, tiny: Make, train: Train) -> None:
    config = tiny(tmp_path, training={"steps": 1})
    train(config)
    with pytest.raises(UserError, match="name must be new"):
        train(config)


def test_a_corpus_shorter_than_a_chunk_for_every_lane_starts_nothing(tmp_path: Path, tiny: Make, train: Train) -> None:
    with pytest.raises(UserError, match="one chunk of seq_len"):
        train(tiny(tmp_path, training={"lanes": 24_000}))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow  # the next one holds it, of a run that has all that a run can have
@pytest.mark.usefixtures("ray_cluster")
def test_under_ray_as_in_this_process_and_with_any_number_of_workers(tmp_path: Path, tiny: Make, train: Train) -> None:
    assert_as_alone(tmp_path, tiny, train, {"model": {"dropout": 0.0}})


@pytest.mark.usefixtures("ray_cluster")
def test_under_ray_resumed_equals_uninterrupted_bit_for_bit_and_as_in_this_process(
    tmp_path: Path, tiny: Make, train: Train
) -> None:
    """With all that a run has: a state, windows, the reversible backward, growth, micro-batches."""
    changes: dict[str, Any] = {"growing": True, "accumulate": 2, "training": {"cold_starts": 0.3}}
    changes["model"] = {"dropout": 0.0, "mixer": "both", "memory": "reversible"}
    config, two = assert_as_alone(tmp_path, tiny, train, changes)
    assert_goes_on_exactly(config, two, (6,), train)


def assert_as_alone(tmp_path: Path, tiny: Make, train: Train, changes: dict[str, Any]) -> tuple[RunConfig, RunFolder]:
    """Two workers under Ray train what this process trains alone, but for rounding; gives their run."""
    # One thread each: the order of summation, and so the last bit, depends on the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, alone, _ = train(tiny(tmp_path / "local", **changes))
    finally:
        torch.set_num_threads(threads)
    config = tiny(tmp_path / "two", **changes, local=False, workers=2)
    summary, two, _ = train(config)
    assert summary.world_size == 2
    assert final(alone).state["growth"]["grown_at"] == final(two).state["growth"]["grown_at"]
    for name, mine in final(alone).model.items():
        if name.endswith("k_proj.bias"):
            continue  # its gradient is zero but for rounding (softmax ignores it), and Adam makes steps of rounding
        torch.testing.assert_close(final(two).model[name], mine, rtol=1e-3, atol=1e-4, msg=name)
    for name, mine in final(alone).carried.items():
        torch.testing.assert_close(final(two).carried[name], mine, rtol=1e-3, atol=1e-4)
    for mine, yours in zip(history(alone), history(two), strict=True):
        assert mine.keys() == yours.keys()
        assert yours["train/bpb"] == pytest.approx(mine["train/bpb"], rel=1e-4)
    assert not (two.path / "ray").exists()
    return config, two


def test_a_run_that_diverges_goes_back_and_then_ends_clearly(tmp_path: Path, tiny: Make, train: Train) -> None:
    exploding = {"learning_rate": 1e30, "skip_limit": 2, "rollback_limit": 2, "steps": 60, "warmup": 0}
    with pytest.raises(UserError, match=r"training diverged 3 times, last at step \d+.*--training.learning-rate"):
        train(tiny(tmp_path, training=exploding))


def test_an_evaluation_that_is_not_finite_is_a_divergence_and_never_saved(
    tmp_path: Path, tiny: Make, train: Train
) -> None:
    """Weights beyond the range of floats, evaluated before the next gradient shows it."""
    config = tiny(tmp_path, training={"steps": 4, "schedule": "constant"})
    _, folder, _ = train(config)
    exploding = {"learning_rate": 1e30, "rollback_limit": 1, "evaluate_every": 1, "save_every": 1, "steps": 60}
    with pytest.raises(UserError, match=r"diverged 2 times, .*validation took nan bits.*--training\.learning-rate"):
        train(replace(config, resume=True, training=replace(config.training, **exploding)))
    checkpoint, _, damaged = newest_valid(folder.checkpoints) or (None, None, None)
    assert checkpoint and checkpoint.state["step"] == 4 and damaged == []
    assert checkpoint.state["best"]["step"] == 4, "what is not finite is never the best"
    assert state_of(folder, read_journal(folder.journal)) == "failed"
    train(replace(config, resume=True, training=replace(config.training, steps=6)))
    assert state_of(folder, read_journal(folder.journal)) == "finished", "it went on"


def test_weights_that_diverged_before_the_evaluation_at_the_end_are_not_kept(
    tmp_path: Path, tiny: Make, train: Train
) -> None:
    config = tiny(tmp_path, training={"steps": 4, "schedule": "constant"})
    _, folder, _ = train(config)
    exploding = {"learning_rate": 1e30, "rollback_limit": 1, "steps": 6, "evaluate_every": 60, "save_every": 60}
    with pytest.raises(UserError, match=r"diverged 2 times, last at step 6, where validation took nan bits"):
        train(replace(config, resume=True, training=replace(config.training, **exploding)))
    assert final(folder).state["step"] == 4


def test_a_precision_that_was_chosen_is_said_and_kept(tmp_path: Path, tiny: Make, train: Train) -> None:
    summary, folder, said = train(tiny(tmp_path, precision="auto", training={"steps": 1, "warmup": 0}))
    assert run_config(folder).precision == summary.precision in ("fp32", "bf16")
    assert f"precision auto: {summary.precision}, a product in bf16 takes" in said


def text_to_validate_on(folder: Path, lines: int) -> dict[str, str]:
    """A corpus whose validation takes a while."""
    for name, count in (("train", 1000), ("valid", lines), ("test", 60)):
        (folder / f"wiki.{name}.raw").write_text("".join(f"Line {n} of a text on nothing.\n" for n in range(count)))
    return {"path": str(folder)}


def stop_when(folder: RunFolder, began: Callable[[], bool]) -> threading.Thread:
    """Ask the run to stop once it has begun what `began` knows of."""

    def ask() -> None:
        while not began():
            time.sleep(0.01)
        request_stop(folder.path)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


def test_a_stop_before_the_first_step_leaves_a_run_that_can_go_on(
    tmp_path: Path, tiny: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.loop.stop_signal", lambda folder: nullcontext(StopSignal(wanted=True)))
    config = tiny(tmp_path)
    assert train(config)[0].steps == 1
    monkeypatch.undo()
    assert train(replace(config, resume=True))[0].status == "finished"


@pytest.mark.parametrize("at", [2, 4], ids=["midway", "at-the-end"])
def test_a_stop_during_an_evaluation_cuts_it_short_and_loses_nothing(
    tmp_path: Path, tiny: Make, train: Train, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    evaluations = {"steps": 4, "log_every": 1, "evaluate_every": at, "save_every": 99}
    config = tiny(tmp_path, training=evaluations)
    folder = RunFolder(Path(config.storage) / "run")

    def ask(*_: object) -> None:
        request_stop(folder.path)
        time.sleep(0.02)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("pipeline.runs.stop._SECONDS", 0.01)
        meanwhile.setattr("pipeline.runs.stage.StageNote.show", ask)  # behind every batch
        meanwhile.setattr("pipeline.training.validate.batch_rows", lambda *_: 1)
        assert_stopped(at, *train(config))
    resumed, _, _ = train(replace(config, resume=True))
    assert resumed.status == "finished" and resumed.validation_bpb and resumed.test_bpb
    _, whole, _ = train(replace(config, name="whole"))
    assert_same(whole, folder)
    assert {path.name for path in folder.samples.iterdir()} == {path.name for path in whole.samples.iterdir()}


@pytest.mark.slow  # that all workers stop where one is told to, tests/pipeline/training/test_validate.py holds
@pytest.mark.usefixtures("ray_cluster")
def test_under_ray_a_stop_during_an_evaluation_cuts_it_short_and_loses_nothing(
    tmp_path: Path, tiny: Make, train: Train
) -> None:
    """Stopped as two workers, it ends in this process as a run that never left it, but for rounding."""
    corpus = text_to_validate_on(tmp_path, 30_000)
    alone = tiny(tmp_path, training={"steps": 4}, model={"dropout": 0.0}, corpus=corpus, threads=1)
    folder = RunFolder(Path(alone.storage) / "run")
    # What was trained is saved before the evaluations at the end.
    asking = stop_when(folder, checkpoint_folder(folder.checkpoints, 4).exists)
    assert_stopped(4, *train(replace(alone, local=False, workers=2)))
    asking.join()
    resumed, _, _ = train(replace(alone, resume=True))
    whole, _, _ = train(replace(alone, name="whole"))
    assert resumed.status == "finished"
    assert resumed.validation_bpb == pytest.approx(whole.validation_bpb, rel=1e-4)
    assert resumed.test_bpb == pytest.approx(whole.test_bpb, rel=1e-4)


def assert_stopped(at: int, stopped: Summary, _: RunFolder, said: str) -> None:
    assert (stopped.status, stopped.steps, stopped.validation_bpb) == ("stopped", at, None)
    assert f"stopped at step {at}; continue with --resume --name run" in said


@pytest.mark.ray  # a whole job
def test_a_profile_is_a_trace_of_some_steps(tmp_path: Path, tiny: Make, train: Train) -> None:
    _, folder, said = train(tiny(tmp_path, profile=2, training={"steps": 8}))
    trace = folder.path / "profile" / "trace.json.gz"
    assert f"profile {trace}" in said
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep")}
    assert steps == {"ProfilerStep#3", "ProfilerStep#4"}


def test_a_graph_where_there_is_no_gpu_starts_nothing(tmp_path: Path, tiny: Make, train: Train) -> None:
    with pytest.raises(UserError, match="graph yes needs a CUDA device, found a CPU: use --graph auto"):
        train(tiny(tmp_path, graph="yes", use_gpu="no"))
    assert not list((tmp_path / "runs").glob("*"))


def test_a_step_too_large_for_memory_ends_with_what_to_do(
    tmp_path: Path, tiny: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("pipeline.training.step._update", full)
    with pytest.raises(UserError, match=r"4 rows of 16 bytes do not: raise --accumulate to 2, use .* reversible or"):
        train(tiny(tmp_path))
