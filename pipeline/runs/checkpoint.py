"""Checkpoints: folders of safetensors and JSON, committed atomically, verified on load; no pickle is written or read.

checkpoints/step-000001000/     (how it becomes whole at once: pipeline.storage.path.write_whole)
    model.safetensors       parameters and buffers by name
    optimizer.safetensors   moments by kind and parameter name
    state.json              step, growth, scaler, best, config, corpus, versions
    commit.json             size and sha256 of the three; written last: a folder without it does not count
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from safetensors import SafetensorError

from h2q.errors import UserError
from pipeline.storage.path import is_whole, remove_whole, write_whole

if TYPE_CHECKING:  # torch takes seconds to load: who only looks at a state need not wait for it
    import torch

Tensors = dict[str, "torch.Tensor"]
T = TypeVar("T")

FORMAT = 1
MODEL = "model.safetensors"
_COMMIT = "commit.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on: tensors by name, everything else as JSON."""

    model: Tensors
    optimizer: Tensors
    state: dict[str, Any]


class DamagedCheckpoint(Exception):
    """A checkpoint folder that is incomplete or does not hold what its commit file says."""


def checkpoint_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; one that is not finished never counts. Its folder."""
    from safetensors.torch import save

    final = checkpoint_folder(folder, checkpoint.state["step"])
    files = {
        MODEL: save(checkpoint.model),
        "optimizer.safetensors": save(checkpoint.optimizer),
        "state.json": _json(checkpoint.state),
    }
    listing = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    write_whole(final, {**files, _COMMIT: _json({"format": FORMAT, "files": listing})})
    return final


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises: DamagedCheckpoint naming the file, what was expected and what was found.
    """
    from safetensors.torch import load

    contents, state = _verified(folder)
    try:
        return Checkpoint(model=load(contents[MODEL]), optimizer=load(contents["optimizer.safetensors"]), state=state)
    except (KeyError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def _verified(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files by name, as they were committed, and what the JSON one says."""
    try:
        commit = json.loads((folder / _COMMIT).read_bytes())
        if commit["format"] != FORMAT:
            raise DamagedCheckpoint(f"{folder}: format {commit['format']}, this version reads {FORMAT}")
        contents = {}
        for name, expected in commit["files"].items():
            content = contents[name] = (folder / name).read_bytes()
            if len(content) != expected["bytes"]:
                raise DamagedCheckpoint(f"{folder / name}: {len(content)} bytes, {expected['bytes']} were written")
            if hashlib.sha256(content).hexdigest() != expected["sha256"]:
                raise DamagedCheckpoint(f"{folder / name}: its sha256 is not the one that was written")
        return contents, json.loads(contents["state.json"])
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename} is missing") from error
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{folder}: {type(error).__name__}: {error}")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end, newest first."""
    return sorted((path for path in folder.glob("step-*") if is_whole(path, _COMMIT)), reverse=True)


def newest_valid(folder: Path) -> tuple[Checkpoint, Path, list[str]] | None:
    """The newest checkpoint that verifies, its folder, and why newer ones were passed over; None if there is none.

    Raises: UserError if there are checkpoints but every one is damaged.
    """
    return _newest(folder, read_checkpoint)


def newest_state(folder: Path) -> tuple[dict[str, Any], Path, list[str]] | None:
    """What the newest checkpoint that verifies holds beside tensors; else like `newest_valid`, but loads no torch."""
    return _newest(folder, lambda path: _verified(path)[1])


def _newest(folder: Path, read: Callable[[Path], T]) -> tuple[T, Path, list[str]] | None:
    damaged: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return read(path), path, damaged
        except DamagedCheckpoint as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"no valid checkpoint in {folder}: {'; '.join(damaged)}; start over under another --name")
    return None


class TrainState(Protocol):
    """What can be asked for a copy of itself."""

    def snapshot(self) -> Checkpoint: ...


class CheckpointWriter:
    """Writes checkpoints in a thread of its own: the training loop waits only for the copy to host memory.

    Does nothing unless `active`: only the first worker writes.
    """

    def __init__(
        self, folder: Path, keep: int, *, before: Callable[[], None] = lambda: None, active: bool = True
    ) -> None:
        """`before` is called in that thread before each checkpoint is written."""
        self._active = active
        self._before = before
        self._folder = folder
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        if active:
            for unfinished in folder.glob(".step-*"):  # of a run that was killed while it saved
                remove_whole(unfinished, _COMMIT)

    def write(self, train_state: TrainState) -> None:
        """Copy to host memory and start writing. Raises what the previous write raised."""
        if self._active:
            self.wait()
            self._pending = self._thread.submit(self._write, train_state.snapshot())

    def wait(self) -> None:
        """Return when the last checkpoint is committed; raise what its writing raised."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, checkpoint: Checkpoint) -> None:
        self._before()
        write_checkpoint(self._folder, checkpoint)
        best = checkpoint.state.get("best")
        keep = set(list_checkpoints(self._folder)[: self._keep])
        keep |= {checkpoint_folder(self._folder, best["step"])} if best else set()
        # Older ones, and those on a URI that were never finished. What resists is tried again after the next one.
        for path in self._folder.glob("step-*"):
            if path not in keep:
                with suppress(OSError, UserError):
                    remove_whole(path, _COMMIT)


def to_host(tensors: Tensors) -> Tensors:
    """Copies in host memory that later steps do not change; tensors that share storage get one each."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
