"""Finding a trained run by whatever a person calls it, and loading its model."""

import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from h2q.config import UserError
from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.checkpoint import Checkpoint, DamagedCheckpoint, checkpoint_folder, newest_valid, read_checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import read_journal
from pipeline.storage.path import locate

if TYPE_CHECKING:  # torch takes seconds to load: who only looks for a run need not wait for it
    from h2q.model import ByteModel


def find_run(reference: str, *, storage: str = "runs", tracking: TrackingConfig | None = None) -> RunFolder:
    """The run that `reference` names: a name or a folder of a run, an MLflow run id, a registered model (NAME or
    models:/NAME/VERSION), `latest` (started last) or `best` (lowest validation bits per byte).

    Raises: UserError naming the nearest names there are.
    """
    runs = list_runs(storage)
    if reference in ("latest", "best") and runs:
        return runs[-1] if reference == "latest" else min(runs, key=best_bpb)
    for folder in (RunFolder(locate(storage) / reference), RunFolder(locate(reference))):
        if reference and folder.read("config.json") is not None:
            return folder
    for folder in runs:
        noted = folder.read("mlflow.json")
        if noted is not None and noted["run_id"] == reference:
            return folder
    if found := _tracked(reference, tracking or TrackingConfig()):
        return found
    names = [folder.name for folder in runs]
    near = difflib.get_close_matches(reference, names, n=3, cutoff=0.3) or names[-3:]
    there = f"nearest: {', '.join(near)}" if near else "there are no runs"
    raise UserError(f"no run is called {reference!r} in {locate(storage)} or in MLflow; {there}")


def list_runs(storage: str) -> list[RunFolder]:
    """The runs in a storage folder, in the order of their start."""
    found = locate(storage).glob("*/config.json")
    return [RunFolder(path.parent) for path in sorted(found, key=lambda path: (path.stat().st_mtime, path))]


def best_bpb(folder: RunFolder) -> float:
    """The lowest validation bits per byte that the run has reached, infinity before its first evaluation."""
    return min((record.get("validation/bpb", math.inf) for record in read_journal(folder.journal)), default=math.inf)


def run_config(folder: RunFolder) -> RunConfig:
    """The config of a run.

    Raises: UserError if the folder is not one of a run.
    """
    stored = folder.read("config.json")
    if stored is None:
        raise UserError(f"{folder.path} is not the folder of a run: it has no config.json")
    return RunConfig.from_dict(stored["config"])


def load_checkpoint(folder: RunFolder) -> tuple[Checkpoint, Path]:
    """The best checkpoint of the run by validation bits per byte, or else the newest; and its folder.

    Raises: UserError if there is none, or none that verifies.
    """
    found = newest_valid(folder.checkpoints)
    if found is None:
        raise UserError(
            f"{folder.name} has no checkpoint yet: let it train until its first --training.save-every steps"
        )
    checkpoint, path, _ = found
    if best := checkpoint.state.get("best"):
        try:
            path = checkpoint_folder(folder.checkpoints, best["step"])
            return read_checkpoint(path), path
        except DamagedCheckpoint as error:
            raise UserError(f"the best checkpoint of {folder.name} is damaged: {error}") from error
    return checkpoint, path


def load_model(folder: RunFolder) -> tuple["ByteModel", RunConfig]:
    """The trained model of a run, on the CPU, ready to be evaluated; and the run's config.

    Raises: UserError as `load_checkpoint` does.
    """
    checkpoint, _ = load_checkpoint(folder)
    return model_of(checkpoint)


def model_of(checkpoint: Checkpoint) -> tuple["ByteModel", RunConfig]:
    """The model in a checkpoint, on the CPU, ready to be evaluated; and the config of its run."""
    from h2q.model import ByteModel

    config = RunConfig.from_dict(checkpoint.state["config"])
    model = ByteModel(config.model)
    model.load_state_dict(checkpoint.model)
    return model.eval(), config


def _tracked(reference: str, tracking: TrackingConfig) -> RunFolder | None:
    """The folder of a run that MLflow knows by its id or as a registered model, if it is still there."""
    if not tracking.enabled:
        return None
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from pipeline.tracking.store import FOLDER_TAG, tracking_uri

    uri = tracking_uri(tracking)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None  # Looking must not make a store.
    client = MlflowClient(uri)
    name, _, version = reference.removeprefix("models:/").partition("/")
    try:
        if not version:
            version = max((int(found.version) for found in client.search_model_versions(f"name='{name}'")), default="")
        run_id = client.get_model_version(name, str(version)).run_id if version else reference
        folder = client.get_run(run_id or "").data.tags.get(FOLDER_TAG)
    except MlflowException:
        return None
    found = RunFolder(locate(folder)) if folder else None
    return found if found and found.read("config.json") is not None else None
