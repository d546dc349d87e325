"""The folder of a run, on a disk or a URI: its name, how it is claimed, and how a later start finds it again.

runs/NAME/
    config.json     preset, command and every option, as the run now is, and when it was last started
    history.json    which options were changed by a resume, and from which step on
    mlflow.json     the MLflow run that tracks it
    metrics.jsonl   one record a logged step
    checkpoints/    step-000001000/ …
    samples/        step-000001000.txt …, of a corpus of bytes .wav, say
    plots/          curves.png, energy.png
    profile/        trace.json.gz, with --profile
    summary.json    the result, when it has ended
    failed.json     why training ended by an error, until it goes on
    evaluation/     what jobs/evaluate.py has found of it
"""

import errno
import glob
import json
import os
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.runs.older import FORMAT
from pipeline.shown import note
from pipeline.storage.json_file import Count, object_of, read_hint, read_json, shape_of
from pipeline.storage.path import UriPath, locate, text_of, write_file
from pipeline.storage.uri import make_folder, remove, write_atomic

LOST_OPTIONS = (
    "put back what the run had (a checkpoint's state.json holds its options, --help tells today's defaults), or start "
    "another --name"
)


class MLflowNote(TypedDict):
    """mlflow.json: the MLflow run that tracks a run."""

    tracking_uri: str
    run_id: str


class SummaryNote(TypedDict):
    """What is read of summary.json; it holds more (`pipeline.training.summary`)."""

    status: str
    steps: Count
    parameters: Count
    bytes_seen: Count
    seconds: float
    corpus: NotRequired[str]
    corpus_sha256: NotRequired[str]
    sample: NotRequired[str | None]


class Change(TypedDict):
    """What a resume has changed: the options by their path, with the values that they had and have."""

    step: Count
    command: str
    options: dict[str, dict[Literal["was", "now"], Any]]


class HistoryNote(TypedDict):
    """What history.json holds."""

    changes: list[Change]


PROMPT_BYTES = 64
"""Bytes of the test split that a sample begins with."""
SAMPLE_BYTES = 200
"""Bytes that the model writes behind them."""


@dataclass(frozen=True)
class RunFolder:
    """An existing folder of a run."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def to_resume(self) -> str:
        """The options that continue it, as a shell takes them."""
        return f"--resume --name {shlex.quote(self.name)}"

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def history_file(self) -> Path:
        return self.path / "history.json"

    @property
    def mlflow_file(self) -> Path:
        return self.path / "mlflow.json"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def journal(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def trace(self) -> Path:
        return self.profile / "trace.json.gz"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluation"

    @property
    def failure_file(self) -> Path:
        """There while its training has ended by an error, which it holds."""
        return self.path / "failed.json"

    @property
    def stage_file(self) -> Path:
        """What it is busy with, see `pipeline.runs.stage`."""
        return self.path / "stage.json"

    @property
    def lock_file(self) -> Path:
        """Held by the process that trains here, or sweeps."""
        return self.path / ".lock"

    def config(self) -> dict[str, Any] | None:
        """`preset`, `command` and `config`, as they were noted; None where this is no run. Options that are younger
        than the run are missing (`pipeline.runs.load.run_config` has them all). Raises: UserError if the file is
        damaged."""
        options = shape_of(RunConfig, complete=False)
        shape = object_of(format=NotRequired[Count], preset=str, command=str, config=options)
        return self.read(self.config_file.name, shape, LOST_OPTIONS)

    def note_config(self, preset: str, command: str, config: RunConfig) -> None:
        """From here on, the folder is one of a run, which starts, or goes on, now."""
        remove(self.failure_file)
        noted = {"format": FORMAT, "started": time.time(), "preset": preset, "command": command}
        self.write(self.config_file.name, noted | {"config": config.to_dict()})

    def history(self) -> list[Change]:
        """What resumes have changed, oldest first."""
        noted = read_hint(self.history_file, HistoryNote, "what resumes have changed so far is not known any more")
        return noted["changes"] if noted else []

    def note_change(self, step: int, command: str, options: dict[str, dict[str, Any]]) -> None:
        """One more entry of the history."""
        change = {"step": step, "command": command, "options": options}
        self.write(self.history_file.name, {"changes": [*self.history(), change]})

    def summary(self) -> dict[str, Any] | None:
        """The result, None before the run has ended, or where a note says that the file is damaged."""
        return read_hint(self.summary_file, SummaryNote, "the run counts as unfinished until it ends once more")

    def write_summary(self, summary: dict[str, Any]) -> None:
        self.write(self.summary_file.name, summary)

    def mlflow_run(self) -> dict[str, str] | None:
        """`tracking_uri` and `run_id` of the MLflow run that tracks it, None where none does, or where a note says that
        the file is damaged."""
        return read_hint(self.mlflow_file, MLflowNote, "the run counts as one that MLflow does not know")

    def note_mlflow_run(self, tracking_uri: str, run_id: str) -> None:
        self.write(self.mlflow_file.name, {"tracking_uri": tracking_uri, "run_id": run_id})

    def read(self, name: str, shape: Any = dict, remedy: str = "put back the file as it was") -> dict[str, Any] | None:
        """A JSON file of the folder, None if it is not there. Raises: UserError if it is damaged."""
        try:
            return read_json(self.path / name, shape, remedy)
        except FileNotFoundError:
            return None

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file of the folder, atomically."""
        write_file(self.path / name, json.dumps(value, indent=1).encode())


def check_storage(storage: str) -> Path:
    """The storage folder, made if need be: a path, or a URI that pyarrow knows.

    Raises: UserError if nothing can be written there.
    """
    return check_folder(storage, "storage")


def check_folder(text: str, option: str) -> Path:
    """The folder that an option names, as `check_storage`."""
    require(
        text.isprintable() and text != "",
        f"{option} must be a path of printable UTF-8, got {text!r}: name another with --{option}",
    )
    folder = locate(text)
    probe = folder / f".write-{uuid.uuid4().hex}"
    try:
        make_folder(folder, f"--{option}")
        write_atomic(probe, b"")
        remove(probe)
    except UserError as error:
        raise UserError(
            f"{option} must be a folder that can be written, got {folder} ({error}): name another with --{option}"
        ) from error
    return folder


def check_new(storage: Path, config: RunConfig) -> None:
    """Refuse a name that a run has, before anything dear is done for it: `claim_folder` has the last word.

    Raises: UserError naming the folder.
    """
    if config.name is not None:
        folder = RunFolder(storage / config.name)
        require(not folder.config_file.exists(), _taken(folder))
        require(not holds_anything(folder), occupied(folder))


def _taken(folder: RunFolder) -> str:
    return f"name must be new, but {folder.path} exists: add --resume to continue that run, or choose another --name"


def holds_anything(folder: RunFolder) -> bool:
    """Whether the folder is there and not empty, or a link to nowhere."""
    return next(iter(folder.path.glob("*")), None) is not None or leads_nowhere(folder.path) != ""


def leads_nowhere(path: Path) -> str:
    """What to tell of a link whose end is not there; "" for anything else."""
    if not os.path.islink(text_of(path)) or path.exists():
        return ""
    return f"{path} is a link to {os.readlink(path)}, which is not there: put that back, or delete the link"


def note_lost_links(storage: Path) -> None:
    """What may have been the newest run is not passed over in silence."""
    for path in () if isinstance(storage, UriPath) else storage.glob("*"):
        if lost := leads_nowhere(path):
            note(f"{path.name} is passed over: {lost}")


def occupied(folder: RunFolder, kind: str = "run", file: str = "config.json") -> str:
    """What to tell whoever wants to start, or to resume, what has lost the file that makes it one."""
    if lost := leads_nowhere(folder.path):
        return f"{lost}, or choose another --name"
    return f"{folder.path} is no {kind}, because it has no {file}: take it away, or choose another --name"


def claim_folder(storage: Path, config: RunConfig, preset: str, command: str) -> RunFolder:
    """Make the folder of a new run, with its config in it; one that a killed start left empty is used.

    Raises: UserError if there is anything of the name that was asked for.
    """

    def fill(folder: RunFolder) -> None:
        folder.note_config(preset, command, config)

    for name in [config.name] if config.name else new_names(preset, unseen=isinstance(storage, UriPath)):
        folder = RunFolder(storage / name)
        if isinstance(storage, UriPath) and not folder.config_file.exists():
            fill(folder)
            return folder
        if not isinstance(storage, UriPath) and renamed_into_place(folder, fill):
            return folder
    folder = RunFolder(storage / str(config.name))
    raise UserError(_taken(folder) if folder.config_file.exists() else occupied(folder))


def new_names(what: str, *, unseen: bool = False) -> Iterator[str]:
    """Names for what was given none: the preset and the time, told apart where several start in one second. `unseen`:
    where a folder cannot be claimed for one alone, so that chance must tell them apart."""
    name = f"{what}-{datetime.now():%Y%m%d-%H%M%S}"
    yield f"{name}-{uuid.uuid4().hex[:6]}" if unseen else name
    yield from (f"{name}-{number}" for number in count(2))


def renamed_into_place(folder: RunFolder, fill: Callable[[RunFolder], None]) -> bool:
    """Make the folder so that it is filled whenever it is there; False where something of its name is there already."""
    beside = RunFolder(folder.path.with_name(f".{uuid.uuid4().hex}"))
    beside.path.mkdir()
    try:
        fill(beside)
        beside.path.rename(folder.path)  # replaces an empty folder, and nothing else
        return True
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise UserError(f"cannot make {folder.path}: {error.strerror}; choose another --name or --storage") from error
    finally:
        shutil.rmtree(beside.path, ignore_errors=True)


def find_folder(storage: Path, name: str | None) -> RunFolder:
    """The folder of the run `name`, or of the one that was last started or resumed.

    Raises: UserError if there is none.
    """
    if name is not None:
        folder = RunFolder(storage / name)
        if folder.config() is None:
            missing = f"no run {name} in {storage}: leave out --resume to start it"
            for trial in storage.glob(f"*/{glob.escape(name)}/config.json"):
                sweep = trial.parent.parent
                missing = f"{name} is a trial of the sweep {sweep.name}: add --storage {shlex.quote(str(sweep))}"
            raise UserError(occupied(folder) if holds_anything(folder) else missing)
        return folder
    note_lost_links(storage)
    found = run_folders(storage)
    require(bool(found), f"no run to resume in {storage}: leave out --resume to start one")
    return found[-1]


def run_folders(*storages: Path) -> list[RunFolder]:
    """The runs in storage folders, the one that was last started or resumed at the end."""
    found = [path for storage in storages for path in storage.glob("*/config.json")]
    return [RunFolder(path.parent) for path in by_start(path for path in found if not path.parent.name.startswith("."))]


def by_start(files: Iterable[Path]) -> list[Path]:
    """Files that say when their folders were last started, in that order; a copy comes before what it is of."""
    return sorted(sorted(files, reverse=True), key=lambda file: (started(file), -file.stat().st_mtime))


def started(file: Path) -> float:
    """When a run or a sweep was last started or resumed, in seconds since the epoch: as its config.json or sweep.json
    says, which no copy changes. Where it is older than that, or damaged: when it was written."""
    with suppress(UserError):
        return read_json(file, object_of(started=float), "")["started"]
    return file.stat().st_mtime
