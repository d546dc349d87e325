"""Checkpoints: what is written comes back bit for bit, or not at all."""

import json
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
    DamagedCheckpoint,
    checkpoint_folder,
    list_checkpoints,
    newest_state,
    newest_valid,
    read_checkpoint,
    step_of,
    to_host,
    write_checkpoint,
)
from pipeline.runs.tensors import read_tensors
from pipeline.storage import path as location
from pipeline.storage import uri as storage
from pipeline.storage.path import AnyPath, locate

KINDS = ("exp_avg", "exp_avg_sq")
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "commit.json")


CONFIG = RunConfig(model=ModelConfig(dim=16, depth=1, heads=1, factor=2, fixed_rank=1, seq_len=4, vocab=8))


def example(step: int, best: dict[str, float] | None = None) -> Checkpoint:
    torch.manual_seed(step)
    model = ByteModel(CONFIG.model)
    parameters = dict(model.named_parameters())
    return Checkpoint(
        model=to_host(model.state_dict()),
        optimizer={f"{kind}/{name}": torch.randn_like(parameters[name]) for kind in KINDS for name in parameters}
        | {f"step/{name}": torch.tensor(7.0) for name in parameters},
        state={"step": step, "losses": [0.1, 1 / 3], "best": best, "config": CONFIG.to_dict()},
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
        return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

    return equal(one.model, other.model) and equal(one.optimizer, other.optimizer) and one.state == other.state


def test_what_is_written_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, example(40))
    assert path == checkpoint_folder(tmp_path, 40)
    assert same(read_checkpoint(path), example(40))
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_damage_is_found_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    write_checkpoint(tmp_path, example(1))
    file = write_checkpoint(tmp_path, example(2)) / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(DamagedCheckpoint, match=name if damage == "missing" else "step-000000002"):
        read_checkpoint(file.parent)
    found = newest_valid(tmp_path)
    assert found is not None
    assert same(found[0], example(1))
    assert len(found[2]) == 1 and "step-000000002" in found[2][0]
    assert newest_state(tmp_path) == (found[0].state, *found[1:]), "whoever wants no tensors finds the same one"


def test_a_later_format_is_not_guessed_at(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, example(1))
    commit = json.loads((path / "commit.json").read_text())
    (path / "commit.json").write_text(json.dumps(commit | {"format": 99}))
    with pytest.raises(DamagedCheckpoint, match="format 99, this version reads 1"):
        read_checkpoint(path)


def test_none_at_all_is_no_error_but_only_damaged_ones_are(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) is None
    (write_checkpoint(tmp_path, example(1)) / "state.json").unlink()
    with pytest.raises(UserError, match=r"no valid checkpoint .*state\.json is missing"):
        newest_valid(tmp_path)


def test_a_write_that_fails_leaves_nothing_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, example(1))
    real = location._write_durably

    def disk_full(path: Path, content: bytes) -> None:
        if path.name == "state.json":
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(location, "_write_durably", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, example(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


class Counter:
    """A train_state whose checkpoints differ by step."""

    def __init__(self) -> None:
        self.step, self.best = 0, 0

    def snapshot(self) -> Checkpoint:
        return example(self.step, best={"step": self.best, "bpb": 1.0})


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    counter = Counter()
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for counter.step in range(1, 6):
            counter.best = min(counter.step, 2)
            writer.write(counter)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["5", "4", "2"]


@pytest.mark.parametrize(("keep", "kept"), [(1, [150]), (2, [150, 100])])
def test_what_a_run_saves_stays_beside_damaged_ones_that_it_passed_over(
    tmp_path: Path, keep: int, kept: list[int]
) -> None:
    """They are those of a start whose steps it does anew: they go when it has saved, and not before."""
    for step in (90, 100, 200, 300):
        write_checkpoint(tmp_path, example(step))
    for step in (200, 300):
        (checkpoint_folder(tmp_path, step) / "model.safetensors").write_bytes(b"damaged")
    counter = Counter()
    with CheckpointWriter(tmp_path, keep=keep) as writer:
        assert len(list_checkpoints(tmp_path)) == 4
        counter.step = counter.best = 150
        writer.write(counter)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == kept
    found = newest_valid(tmp_path)
    assert found is not None and same(found[0], example(150, {"step": 150, "bpb": 1.0})) and found[2] == []


@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_step_saved_again_is_there_at_every_moment_and_its_tensors_are_not_written_again(
    tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """By the writer that wrote it, and by one of a start that read it."""
    folder = tmp_path / "run" if where == "disk" else locate(store.uri("bucket/again"))
    tmp_path.joinpath("run").mkdir()
    real, counter, seen = storage.write_atomic, Counter(), []

    def look(path: AnyPath, data: Any) -> None:
        real(path, data)
        found = newest_valid(folder)
        assert found is not None and found[2] == []
        best = found[0].state["best"]
        assert same(found[0], example(2, best))
        seen.append((path.name, best["step"]))

    counter.step = counter.best = 2
    with CheckpointWriter(folder, keep=1) as writer:
        writer.write(counter)
        writer.wait()
        monkeypatch.setattr(storage, "write_atomic", look)
        counter.best = 1
        writer.write(counter)
    with CheckpointWriter(folder, keep=1, read=2) as writer:
        counter.best = 0
        writer.write(counter)
    assert seen == [("commit.json", 2), ("state.json", 1), ("commit.json", 1), ("state.json", 0)]


def test_a_damaged_checkpoint_that_is_trained_anew_is_written_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, example(step))
    (checkpoint_folder(tmp_path, 2) / "model.safetensors").write_bytes(b"damaged")
    counter = Counter()
    with CheckpointWriter(tmp_path, keep=2, read=1) as writer:
        counter.step = counter.best = 2
        writer.write(counter)
    assert same(read_checkpoint(checkpoint_folder(tmp_path, 2)), example(2, {"step": 2, "bpb": 1.0}))


def test_an_error_of_the_writing_thread_reaches_the_loop(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    counter = Counter()
    with pytest.raises(NotADirectoryError), CheckpointWriter(tmp_path / "file", keep=1) as writer:
        writer.write(counter)
        writer.wait()


def test_only_the_first_worker_writes(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=1, active=False) as writer:
        writer.write(Counter())
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_taken_away_while_it_is_read_is_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_checkpoint(tmp_path, example(1))

    def read_too_late(model: Path, *others: Any) -> Any:
        model.unlink()
        return read_tensors(model, *others)

    monkeypatch.setattr("pipeline.runs.tensors.read_tensors", read_too_late)
    with pytest.raises(DamagedCheckpoint, match=r"model\.safetensors"):
        read_checkpoint(path)
