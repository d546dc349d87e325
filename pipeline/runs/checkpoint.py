"""Checkpoints: folders of safetensors and JSON, committed atomically, verified on load; no pickle is written or read.

checkpoints/step-000001000/     (how it becomes whole at once: pipeline.storage.path.write_whole)
    model.safetensors       parameters and buffers by name
    optimizer.safetensors   moments by kind and parameter name
    carried.safetensors     of a model with a state: that of every lane of the training
    state.json              step, growth, scaler, best, config, corpus, versions
    commit.json             size and sha256 of the others; written last: a folder without it does not count. Where the
                            state was written again, of the one before, too
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Protocol, Self, TypeVar

from annotated_types import Len
from typing_extensions import TypedDict

from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.runs.older import config_from
from pipeline.storage.json_file import Count, fitting, object_of, read_json
from pipeline.storage.path import is_whole, on_disk, remove_whole, write_file, write_whole
from pipeline.storage.uri import DamagedFile, open_regular

if TYPE_CHECKING:  # torch takes seconds to load: who only looks at a state need not wait for it
    import torch

Tensors = dict[str, "torch.Tensor"]
T = TypeVar("T")

FORMAT = 1
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
CARRIED = "carried"
_CARRIED = f"{CARRIED}.safetensors"
_STATE = "state.json"
_COMMIT = "commit.json"
_REMEDY = "take the folder away"


class _Best(TypedDict):
    step: Count
    bpb: float


class _Growth(TypedDict):
    step: Count
    grown_at: list[Count]
    losses: list[float]


class _Leg(TypedDict):
    step: Count
    share: float


class _State(TypedDict):
    """What state.json holds; of an imported model, only what is required."""

    step: Count
    config: dict[str, Any]
    parameters: NotRequired[Count]
    corpus_sha256: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    device: NotRequired[str]
    world_size: NotRequired[Count]
    seconds: NotRequired[float]
    wall_seconds: NotRequired[float]
    bytes_seen: NotRequired[Count]
    evaluated: NotRequired[dict[str, Count]]
    leg: NotRequired[_Leg | None]
    best: NotRequired[_Best | None]
    losses: NotRequired[list[float]]
    skipped: NotRequired[Count]
    rollbacks: NotRequired[Count]
    record: NotRequired[dict[str, float]]
    uncounted: NotRequired[Annotated[list[float], Len(2, 2)]]
    growth: NotRequired[_Growth]
    scaler: NotRequired[dict[str, float]]


_FILE = object_of(bytes=Count, sha256=str)
_COMMITTED = object_of(
    files=object_of(**{MODEL: _FILE, OPTIMIZER: _FILE, _STATE: _FILE}), before=NotRequired[object_of(**{_STATE: _FILE})]
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on: tensors by name, everything else as JSON."""

    model: Tensors
    optimizer: Tensors
    carried: Tensors = field(default_factory=dict)
    """`carried`: what mixers carry, (lanes, depth, size); empty where they carry nothing."""
    state: dict[str, Any]


class DamagedCheckpoint(DamagedFile):
    """A checkpoint folder that is incomplete or does not hold what its commit file says."""


def checkpoint_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def step_of(folder: Path) -> int:
    """The step that the name of a checkpoint's folder says; -1 where it says none."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, whole: bool = False) -> Path:
    """Write a checkpoint; one that is not finished never counts. Its folder. `whole`: the one of this step is there and
    whole, and its tensors stay if they are the same."""
    from safetensors.torch import save

    final = checkpoint_folder(folder, checkpoint.state["step"])
    files = {
        MODEL: save(checkpoint.model),
        OPTIMIZER: save(checkpoint.optimizer),
        **({_CARRIED: save(checkpoint.carried)} if checkpoint.carried else {}),
        _STATE: _json(checkpoint.state),
    }
    listing = {name: _described(content) for name, content in files.items()}
    if not (whole and _renew(final, files[_STATE], listing)):
        write_whole(final, {**files, _COMMIT: _json({"format": FORMAT, "files": listing})})
    return final


def _renew(final: Path, state: bytes, listing: dict[str, Any]) -> bool:
    """Give a checkpoint another state, if it has the tensors of the listing; whether it has. It is valid at any moment:
    until that state is written, its commit holds for the one before, too."""
    try:
        there = read_json(final / _COMMIT, _COMMITTED, _REMEDY)["files"]
        before = _described((final / _STATE).read_bytes())
    except (FileNotFoundError, UserError):
        return False
    if there | {_STATE: None} != listing | {_STATE: None}:
        return False
    write_file(final / _COMMIT, _json({"format": FORMAT, "files": listing, "before": {_STATE: before}}))
    write_file(final / _STATE, state)
    return True


def _described(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_checkpoint(folder: Path, *, moments: bool = True) -> Checkpoint:
    """Read and verify one checkpoint: its files are those that were written, and its tensors those of the model and the
    optimizer that its own config calls for. Without `moments`: what a model is made of, for less memory.

    Raises: DamagedCheckpoint naming the file, what was expected and what was found; UserError for a store that does not
    answer.
    """
    from pipeline.runs.tensors import read_carried, read_tensors

    with _verified(folder) as (state, here):
        config = config_of(state)
        model, optimizer = read_tensors(here / MODEL, here / OPTIMIZER if moments else None, config)
        carried: Tensors = {}
        if (here / _CARRIED).exists():
            carried = read_carried(here / _CARRIED, CARRIED, config)
        return Checkpoint(model=model, optimizer=optimizer, carried=carried, state=state)


def config_of(state: dict[str, Any]) -> RunConfig:
    """The config that a checkpoint's state holds, whichever format it is of: the commit vouches that nothing was
    deleted. Raises: DamagedFile."""
    return config_from(state["config"], 0, _STATE, _REMEDY)


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds beside tensors, unverified. Raises: FileNotFoundError, UserError."""
    return read_json(folder / _STATE, _State, _REMEDY)


def weights_sha256(folder: Path) -> str:
    """The digest of the model's file, as it was committed. Raises: FileNotFoundError, UserError."""
    return read_json(folder / _COMMIT, _COMMITTED, _REMEDY)["files"][MODEL]["sha256"]


@contextmanager
def _verified(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """What the checkpoint holds beside tensors, and a folder on this machine's disk with its files as committed."""
    try:
        with on_disk(folder) as here:
            commit = read_json(here / _COMMIT, object_of(format=int), _REMEDY)
            if commit["format"] != FORMAT:
                raise DamagedFile(f"format {commit['format']}, this version reads {FORMAT}")
            fitting(commit, _COMMITTED, _COMMIT, _REMEDY)
            for name, expected in commit["files"].items():
                _compare(here / name, expected, commit.get("before", {}).get(name))
            state = read_state(here)
            if checkpoint_folder(folder, state["step"]).name != folder.name:
                raise DamagedFile(f"{_STATE} is of step {state['step']}")
            yield state, here
    except (DamagedFile, OSError) as error:
        missing = isinstance(error, FileNotFoundError) and error.filename  # which safetensors does not say
        said = f"{folder / Path(missing).name} is missing" if missing else f"{folder}: {error}"
        raise DamagedCheckpoint(said) from error


def _compare(file: Path, expected: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Raise DamagedFile unless the file has this size and digest, or those before; a block of it is in memory."""
    with open_regular(file) as content:
        size = os.fstat(content.fileno()).st_size
        if size not in (expected["bytes"], before and before["bytes"]):
            raise DamagedFile(f"{file.name}: {size} bytes, {expected['bytes']} were written")
        found = {"bytes": size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
        if found not in (expected, before):
            raise DamagedFile(f"{file.name}: its sha256 is not the one that was written")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end, newest first."""
    return sorted((path for path in folder.glob("step-*") if is_whole(path, _COMMIT)), reverse=True)


def newest_valid(folder: Path, *, moments: bool = True) -> tuple[Checkpoint, Path, list[str]] | None:
    """The newest checkpoint that verifies, its folder, and why newer ones were passed over; None if there is none.
    `moments`: see `read_checkpoint`.

    Raises: UserError if there are checkpoints but every one is damaged.
    """
    return _newest(folder, partial(read_checkpoint, moments=moments))


def newest_state(folder: Path) -> tuple[dict[str, Any], Path, list[str]] | None:
    """What the newest checkpoint that verifies holds beside tensors; else like `newest_valid`, but loads no torch."""
    return _newest(folder, _verified_state)


def _verified_state(folder: Path) -> dict[str, Any]:
    with _verified(folder) as (state, _):
        return state


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


def remove_checkpoint(folder: Path, step: int) -> None:
    """Delete the checkpoint of a step, if it is there."""
    path = checkpoint_folder(folder, step)
    if path.exists():
        remove_whole(path, _COMMIT)


class TrainState(Protocol):
    """What can be asked for a copy of itself."""

    def snapshot(self) -> Checkpoint: ...


class CheckpointWriter:
    """Writes checkpoints in a thread of its own: the training loop waits only for the copy to host memory.

    Does nothing unless `active`: only the first worker writes.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        before: Callable[[], None] = lambda: None,
        *,
        active: bool = True,
        read: int | None = None,
    ) -> None:
        """`before` is called in that thread before each checkpoint is written. `read`: the step of a checkpoint that is
        known to be whole."""
        self._active = active
        self._before = before
        self._folder = folder
        self._keep = keep
        self._whole = read
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
        step = checkpoint.state["step"]
        written = write_checkpoint(self._folder, checkpoint, whole=step == self._whole)
        self._whole = step
        best = checkpoint.state.get("best")
        keep = set([path for path in list_checkpoints(self._folder) if path <= written][: self._keep])
        keep |= {checkpoint_folder(self._folder, best["step"])} if best else set()
        # Older ones, those on a URI that were never finished, and newer ones: of an earlier start, damaged or this one
        # would have gone on from them. What resists is tried again after the next one.
        for path in self._folder.glob("step-*"):
            if path not in keep:
                with suppress(OSError, UserError):
                    remove_whole(path, _COMMIT)


def to_host(tensors: Tensors) -> Tensors:
    """Copies in host memory that later steps do not change; tensors that share storage get one each."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
