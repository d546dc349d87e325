"""The folder of a run, on a disk or a URI: its name, how it is claimed, and how a later start finds it again.

runs/NAME/
    config.json     preset, command and every option
    mlflow.json     the MLflow run that tracks it
    metrics.jsonl   one record a logged step
    checkpoints/    step-000001000/ …
    samples/        step-000001000.txt …
    plots/          curves.png, energy.png
    profile/        trace.json.gz, with --profile
    summary.json    the result, when it has ended
    evaluation/     what jobs/evaluate.py has found of it
"""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.storage.path import locate, write_file
from pipeline.storage.uri import make_folder, remove, write_atomic


@dataclass(frozen=True)
class RunFolder:
    """An existing folder of a run."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

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
    def lock_file(self) -> Path:
        """Held by the process of a sweep that works here."""
        return self.path / ".lock"

    def config(self) -> dict[str, Any] | None:
        """`preset`, `command` and `config`, as they were noted; None where this is no run."""
        return self.read(self.config_file.name)

    def note_config(self, preset: str, command: str, config: RunConfig) -> None:
        """From here on, the folder is one of a run."""
        self.write(self.config_file.name, {"preset": preset, "command": command, "config": config.to_dict()})

    def summary(self) -> dict[str, Any] | None:
        """The result, None before the run has ended."""
        return self.read(self.summary_file.name)

    def write_summary(self, summary: dict[str, Any]) -> None:
        self.write(self.summary_file.name, summary)

    def mlflow_run(self) -> dict[str, str] | None:
        """`tracking_uri` and `run_id` of the MLflow run that tracks it, None where none does."""
        return self.read("mlflow.json")

    def note_mlflow_run(self, tracking_uri: str, run_id: str) -> None:
        self.write("mlflow.json", {"tracking_uri": tracking_uri, "run_id": run_id})

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, None if it is not there."""
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file of the folder, atomically."""
        write_file(self.path / name, json.dumps(value, indent=1).encode())


def check_storage(storage: str) -> Path:
    """The storage folder, made if need be: a path, or a URI that pyarrow knows.

    Raises: UserError if nothing can be written there.
    """
    place = locate(storage)
    probe = place / f".write-{uuid.uuid4().hex}"
    try:
        make_folder(place, "--storage")
        write_atomic(probe, b"")
        remove(probe)
    except UserError as error:
        raise UserError(
            f"storage must be a folder that can be written, got {place} ({error}): name another with --storage"
        ) from error
    return place


def claim_folder(storage: Path, config: RunConfig, preset: str, command: str) -> RunFolder:
    """Make the folder of a new run.

    Raises: UserError if a run has that name.
    """
    name = config.name or f"{preset}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RunFolder(storage / name)
    try:
        folder.path.mkdir()
    except FileExistsError:
        raise UserError(
            f"name must be new, but {folder.path} exists: add --resume to continue that run, or choose another --name"
        ) from None
    folder.note_config(preset, command, config)
    return folder


def find_folder(storage: Path, name: str | None) -> RunFolder:
    """The folder of the run `name`, or of the newest run.

    Raises: UserError if there is none.
    """
    if name is not None:
        folder = RunFolder(storage / name)
        require(folder.config() is not None, f"no run {name} in {storage}: leave out --resume to start it")
        return folder
    found = sorted(storage.glob("*/config.json"), key=lambda path: (path.stat().st_mtime, path))
    require(bool(found), f"no run to resume in {storage}: leave out --resume to start one")
    return RunFolder(found[-1].parent)
