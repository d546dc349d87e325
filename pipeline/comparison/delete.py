"""Deleting a run, or a sweep with its trials: what MLflow holds of it first, then its folder."""

import os
from collections.abc import Callable

from h2q.errors import UserError, require
from pipeline.config import RUN_WORDS, TrackingConfig
from pipeline.runs.find import SWEEP, list_runs, sweep_of, unknown
from pipeline.runs.folder import RunFolder
from pipeline.storage.held import Held, held
from pipeline.storage.path import locate, text_of
from pipeline.storage.uri import remove_folder
from pipeline.tracking.client import answering, open_client
from pipeline.tracking.uri import mlflow_command, tracking_uri


def delete(name: str, storage: str, tracking: TrackingConfig, say: Callable[[str], object]) -> None:
    """Delete the run or the sweep of this name: its folder, and the runs that track it in MLflow.

    MLflow keeps a deleted run until `mlflow gc`. With tracking not `enabled` MLflow's runs are left alone.
    Raises: UserError for no such name, a trial of a sweep, a run that trains, and a store that does not answer.
    """
    folder = _find(name, storage)
    inside = [run for run in list_runs(storage) if sweep_of(run) == folder.path]
    for one in (folder, *inside):
        try:
            if one.lock_file.exists():
                with held(one.lock_file, say):
                    pass
        except Held as error:
            raise UserError(f"{one.name} is being trained by {error}: stop it first") from None
    if tracking.enabled:
        for one in (*inside, folder):
            _delete_tracked(one, tracking, say)
    stays = f", a link: {folder.path.resolve()} stays" if os.path.islink(text_of(folder.path)) else ""
    remove_folder(folder.path)
    say(f"deleted {folder.path}{f' with {len(inside)} trials' if inside else ''}{stays}")


def _find(name: str, storage: str) -> RunFolder:
    require(name not in RUN_WORDS, f"only a run's own name deletes it, got {name}")
    for folder in list_runs(storage):
        if folder.name == name and (sweep := sweep_of(folder)):
            raise UserError(
                f"{name} is a trial of the sweep {sweep.name}, which is deleted as a whole: name {sweep.name}"
            )
        if folder.name == name:
            return folder
    folder = RunFolder(locate(storage) / name)
    if "/" in name or not (folder.path / SWEEP).exists():
        raise unknown(name, storage)
    return folder


def _delete_tracked(folder: RunFolder, tracking: TrackingConfig, say: Callable[[str], object]) -> None:
    from mlflow.exceptions import MlflowException

    noted = folder.mlflow_run()
    if noted is None:
        return
    uri, run_id = (tracking.uri and tracking_uri(tracking)) or noted["tracking_uri"], noted["run_id"]
    client = open_client(uri)
    with answering(uri):
        try:
            stage = client.get_run(run_id).info.lifecycle_stage
        except MlflowException:
            return  # MLflow no longer knows it
        if stage == "active":
            client.delete_run(run_id)
            restore = mlflow_command(noted["tracking_uri"], f"runs restore --run-id {run_id}")
            say(f"deleted MLflow's run of {folder.name}; until mlflow gc, {restore} brings it back")
