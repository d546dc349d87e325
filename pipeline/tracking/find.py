"""Finding a run that MLflow knows: by its id, or as a registered model."""

from pathlib import Path

from pipeline.config import TrackingConfig
from pipeline.runs.find import look_up, unknown
from pipeline.runs.folder import RunFolder
from pipeline.storage.path import locate
from pipeline.tracking.store import FOLDER_TAG, tracking_uri


def find_run(reference: str, *, storage: str = "runs", tracking: TrackingConfig | None = None) -> RunFolder:
    """The run that `reference` names: as `pipeline.runs.find_run`, and an MLflow run id or a registered model (NAME or
    models:/NAME/VERSION).

    Raises: UserError naming the nearest names there are.
    """
    tracking = tracking or TrackingConfig()
    found = look_up(reference, storage)
    if found is None and tracking.enabled:
        found = _tracked(reference, tracking)
    if found is None:
        raise unknown(reference, storage, " or in MLflow" if tracking.enabled else "")
    return found


def _tracked(reference: str, tracking: TrackingConfig) -> RunFolder | None:
    """The folder of a run that MLflow knows by its id or as a registered model, if it is still there."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

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
