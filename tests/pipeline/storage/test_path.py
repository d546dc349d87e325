"""Runs on URIs, through Arrow's own S3 client: what a disk promises holds there too."""

import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.model import ByteModel
from pipeline.config import RunConfig
from pipeline.runs.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    list_checkpoints,
    newest_valid,
    to_host,
    write_checkpoint,
)
from pipeline.runs.folder import RunFolder, check_storage
from pipeline.runs.journal import Follower, Journal, read_journal
from pipeline.shown import without_secrets
from pipeline.storage import append_log as growing
from pipeline.storage import path as paths
from pipeline.storage import uri as storage
from pipeline.storage.path import UriPath, locate
from pipeline.training.summary import Summary

Make = Callable[..., RunConfig]
Train = Callable[..., tuple[Summary, RunFolder, str]]
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "commit.json")


@pytest.fixture
def bucket(store: Any) -> Iterator[Path]:
    """An empty bucket."""
    store.objects.clear()
    store.refused = ""
    yield locate(store.uri("bucket"))
    store.refused = ""


CONFIG = RunConfig(model=ModelConfig(dim=16, depth=1, heads=1, factor=2, fixed_rank=1, seq_len=4, vocab=8))


def example(step: int, best: int = 0) -> Checkpoint:
    torch.manual_seed(step)
    return Checkpoint(
        model=to_host(ByteModel(CONFIG.model).state_dict()),
        optimizer={},
        state={"step": step, "best": {"step": best, "bpb": 1.0} if best else None, "config": CONFIG.to_dict()},
    )


def test_a_uri_is_read_and_written_as_a_path_is(bucket: Path, tmp_path: Path) -> None:
    for place in (bucket / "runs", tmp_path / "runs"):
        place.mkdir()
        (place / "a b.txt").write_text("é")
        (place / "c.txt").write_bytes(b"c")
        (place / "run").mkdir()
        (place / "run" / "config.json").write_bytes(b"{}")
        with pytest.raises(FileExistsError):
            (place / "run").mkdir()
        with pytest.raises(FileNotFoundError):
            (place / "none").read_bytes()
        assert sorted(path.name for path in place.glob("*.txt")) == ["a b.txt", "c.txt"]
        assert [path.parent.name for path in place.glob("*/config.json")] == ["run"]
        parts = [(path.name, path.stem, path.suffix) for path in (place / "a b.txt", place / "run" / "config.json")]
        assert parts == [("a b.txt", "a b", ".txt"), ("config.json", "config", ".json")]
        assert (place / "a b.txt").read_text() == "é" and (place / "c.txt").stat().st_size == 1
        (place / "c.txt").unlink()
        (place / "c.txt").unlink(missing_ok=True)
        assert not (place / "c.txt").exists() and (place / "run").exists()
        with paths.on_disk(place / "a b.txt") as path:
            assert path.name == "a b.txt" and path.read_text() == "é"
        with paths.on_disk(place / "run") as path:
            assert [file.name for file in path.iterdir()] == ["config.json"]


def test_a_file_uri_is_a_path_and_no_password_is_shown(tmp_path: Path, bucket: Path) -> None:
    assert locate(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert isinstance(bucket, UriPath) and "secret" in bucket.uri
    assert "secret" not in f"{bucket} {bucket!r} {bucket / 'x'}"
    assert pickle.loads(pickle.dumps(bucket)) == bucket == locate(paths.text_of(bucket))
    line = "--storage s3://me:pass@bucket/x?client_secret=pass&region=r --corpus.hub name@revision"
    assert without_secrets(line) == ("--storage s3://bucket/x?client_secret=&region=r --corpus.hub name@revision")


@pytest.mark.parametrize("missing", FILES)
def test_a_checkpoint_counts_once_its_commit_is_there(bucket: Path, store: Any, missing: str) -> None:
    write_checkpoint(bucket, example(1))
    damaged = write_checkpoint(bucket, example(2))
    (damaged / missing).unlink()
    found = newest_valid(bucket)
    assert found is not None and found[0].state["step"] == 1
    # Without the commit it was never finished; without another file it is damaged, and named.
    assert len(found[2]) == (0 if missing == "commit.json" else 1)
    assert all(f"step-000000002/{missing}" in reason and "secret" not in reason for reason in found[2])


def test_a_crash_between_any_two_files_leaves_the_checkpoint_before(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(bucket, example(1))
    real = storage.write_atomic
    for number in range(len(FILES)):
        left = [number]

        def crash(path: paths.AnyPath, data: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(path, data)

        monkeypatch.setattr(storage, "write_atomic", crash)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(bucket, example(2))
        monkeypatch.setattr(storage, "write_atomic", real)
        found = newest_valid(bucket)
        assert found is not None and found[0].state["step"] == 1 and found[2] == []


class Counter:
    """A train_state whose checkpoints differ by step."""

    step = 0

    def snapshot(self) -> Checkpoint:
        return example(self.step, best=min(self.step, 2))


def test_the_last_ones_and_the_best_are_kept_and_unfinished_ones_removed(bucket: Path, store: Any) -> None:
    (bucket / "step-000000000" / "model.safetensors").write_bytes(b"unfinished")
    counter, order = Counter(), []
    with CheckpointWriter(bucket, keep=2, before=lambda: order.append(len(store.objects))) as writer:
        for counter.step in range(1, 6):
            writer.write(counter)
    assert [path.name[-1] for path in list_checkpoints(bucket)] == ["5", "4", "2"]
    assert {name.split("/")[1] for name in store.objects} == {f"step-00000000{step}" for step in (5, 4, 2)}
    assert order == [1, 4, 8, 8, 12], "objects before each save"


def test_half_a_removal_is_no_damage(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(bucket, example(1))

    def crash(path: paths.AnyPath) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "remove_folder", crash)
    with pytest.raises(KeyboardInterrupt):
        paths.remove_whole(folder, "commit.json")
    assert newest_valid(bucket) is None


def test_a_store_that_refuses_for_a_while_costs_nothing_and_for_long_is_one_line(
    bucket: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(bucket, example(1))
    monkeypatch.setattr(paths, "PATIENCE", (0.1,) * 50)
    store.refused = "step-000000002"
    threading.Timer(0.5, lambda: setattr(store, "refused", "")).start()
    write_checkpoint(bucket, example(2))
    monkeypatch.setattr(paths, "PATIENCE", (0.0,))
    store.refused = "step-000000003"
    counter = Counter()
    refusal = pytest.raises(UserError, match=r"cannot write s3://bucket/step-000000003/.*ACCESS_DENIED")
    with refusal as caught, CheckpointWriter(bucket, keep=9) as writer:
        counter.step = 3
        writer.write(counter)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    found = newest_valid(bucket)
    assert found is not None and found[0].state["step"] == 2 and found[2] == []


def test_a_journal_on_a_store_is_followed_and_begun_again(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "PUT_SECONDS", 0.02)
    path, seen = bucket / "metrics.jsonl", []
    with Follower(path, seen.extend, every_seconds=0.01):
        with Journal(path, first_step=0) as journal:
            for step in range(4):
                journal.write({"step": step, "time": 1.0})
            journal.sync()
            assert [record["step"] for record in read_journal(path)] == [0, 1, 2, 3]
        with Journal(path, first_step=2) as journal:
            for step in range(2, 6):
                journal.write({"step": step, "time": 1.0})
    assert [record["step"] for record in read_journal(path)] == list(range(6))
    assert [record["step"] for record in seen] == list(range(6))


def test_a_journal_waits_for_a_store_that_is_away(bucket: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "PUT_SECONDS", 0.02)
    monkeypatch.setattr(paths, "PATIENCE", (0.0,))
    path = bucket / "metrics.jsonl"
    with Journal(path, first_step=0) as journal:
        store.refused = "metrics"
        journal.write({"step": 0, "time": 1.0})
        with pytest.raises(UserError, match=r"cannot write s3://bucket/metrics\.jsonl"):
            journal.sync()
        store.refused = ""
        journal.write({"step": 1, "time": 1.0})
    assert [record["step"] for record in read_journal(path)] == [0, 1]


def same(one: RunFolder, other: RunFolder) -> bool:
    left, right = newest_valid(one.checkpoints), newest_valid(other.checkpoints)
    assert left is not None and right is not None
    times = {"time", "seconds", "evaluation_seconds", "bytes_per_second", "memory/peak_bytes"}
    histories = [
        [{name: value for name, value in record.items() if name not in times} for record in read_journal(run.journal)]
        for run in (one, other)
    ]
    return (
        histories[0] == histories[1]
        and left[0].state["step"] == right[0].state["step"]
        and all(torch.equal(left[0].model[name], value) for name, value in right[0].model.items())
        and all(torch.equal(left[0].optimizer[name], value) for name, value in right[0].optimizer.items())
    )


@pytest.mark.ray
def test_a_run_on_a_uri_is_trained_resumed_and_found_as_one_on_a_disk(
    tmp_path: Path, bucket: Path, store: Any, tiny: Make, train: Train
) -> None:
    from mlflow.tracking import MlflowClient

    _, disk, _ = train(tiny(tmp_path))
    uri = store.uri("bucket/runs")
    config = replace(tiny(tmp_path, tracking={"enabled": True}), storage=uri)
    summary, whole, said = train(config, pictures=True)
    assert same(disk, whole)
    assert whole.name == "run" and "run s3://bucket/runs/run" in said
    for name in ("config.json", "summary.json", "plots/curves.png", "plots/energy.png", "samples/step-000000012.txt"):
        assert store.objects[f"bucket/runs/run/{name}"], name
    client, run_id = MlflowClient(summary.mlflow_tracking_uri), summary.mlflow_run_id or ""
    artifacts = {found.path for found in client.list_artifacts(run_id)}
    assert {"config.json", "summary.json", "metrics.jsonl", "plots", "samples"} <= artifacts
    # As a kill leaves it after step 8, with one checkpoint half written.
    for name in [name for name in store.objects if "step-000000012" in name]:
        if not name.endswith("model.safetensors"):
            del store.objects[name]
    _, resumed, said = train(replace(config, resume=True))
    assert "continuing at step 8" in said and same(disk, resumed)
    with pytest.raises(UserError, match=r"name must be new, but s3://bucket/runs/run\S* exists"):
        train(config)


def test_a_storage_that_cannot_be_written_is_said_at_once(bucket: Path, store: Any) -> None:
    store.refused = ".write"
    with pytest.raises(
        UserError, match=r"storage must be a folder that can be written, got s3://bucket/runs.*--storage"
    ):
        check_storage(store.uri("bucket/runs"))
    with pytest.raises(UserError, match=r"storage must be .*nothing://bucket"):
        check_storage("nothing://bucket/runs")
