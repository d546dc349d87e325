"""The exported file with the registered version of its model: beside the model's own files, under `export`."""

import shlex
from dataclasses import replace
from pathlib import Path

from h2q.errors import UserError, first_line, require
from pipeline.config import TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.storage.store_address import is_missing
from pipeline.tracking.registry import register
from pipeline.tracking.store import MLflowStore
from pipeline.tracking.uri import mlflow_command

UNDER = "export"


class Registry:
    """Where an exported file is to be registered. Made before there is a file: what cannot work is told first."""

    def __init__(self, folder: RunFolder, tracking: TrackingConfig) -> None:
        """Raises: UserError if the run was not tracked, or its store is gone or does not answer."""
        assert tracking.register is not None
        tracked = folder.mlflow_run()
        if tracked is None:
            raise UserError(f"tracking.register needs a run that was tracked, and {folder.name} was not: leave it out")
        uri = tracking.uri or tracked["tracking_uri"]
        require(not is_missing(uri), f"tracking.register needs the run's MLflow store, and {uri} is gone: leave it out")
        self._folder, self._run_id, self._name = folder, tracked["run_id"], tracking.register
        self._store = MLflowStore(replace(tracking, uri=uri))

    def take(self, path: Path, kind: str, sha256: str) -> str:
        """Register the run's model, unless these weights have a version under that name, and put the file beside it;
        the version's tag `export.KIND` names file and sha256. Returns where it is, for people.

        Raises: UserError if MLflow does not take it.
        """
        from mlflow.exceptions import MlflowException

        client = self._store.client
        try:
            number = str(register(self._folder, self._name, self._store, self._run_id))
            model_id = str(client.get_model_version(self._name, number).source).removeprefix("models:/")
            client.log_model_artifact(model_id, str(path), UNDER)
            client.set_model_version_tag(self._name, number, f"export.{kind}", f"{UNDER}/{path.name} sha256 {sha256}")
        except (MlflowException, UserError) as error:
            raise UserError(
                f"{path} is written, but not registered as {self._name} ({first_line(error)}): repeat it with --force"
            ) from error
        at = f"models:/{self._name}/{number}/{UNDER}/{path.name}"
        return (
            f"registered; fetch it with {mlflow_command(self._store.uri, f'artifacts download -u {shlex.quote(at)}')}"
        )
