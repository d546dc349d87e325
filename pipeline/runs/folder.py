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
"""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.storage.path import locate, text_of, write_file
from pipeline.storage.uri import make_folder, remove, write_atomic


@dataclass(frozen=True)
class RunFolder:
    """An existing folder of a run."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

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
    probe = text_of(place / f".write-{uuid.uuid4().hex}")
    try:
        make_folder(text_of(place), "--storage")
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
    folder.write("config.json", {"preset": preset, "command": command, "config": config.to_dict()})
    return folder


def find_folder(storage: Path, name: str | None) -> RunFolder:
    """The folder of the run `name`, or of the newest run.

    Raises: UserError if there is none.
    """
    if name is not None:
        folder = RunFolder(storage / name)
        require(folder.read("config.json") is not None, f"no run {name} in {storage}: leave out --resume to start it")
        return folder
    found = sorted(storage.glob("*/config.json"), key=lambda path: (path.stat().st_mtime, path))
    require(bool(found), f"no run to resume in {storage}: leave out --resume to start one")
    return RunFolder(found[-1].parent)
