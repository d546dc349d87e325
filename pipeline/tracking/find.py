"""Finding a run that MLflow knows: by its id, or as a registered model."""

from pipeline.config import TrackingConfig
from pipeline.runs.find import look_up, unknown
from pipeline.runs.folder import RunFolder
from pipeline.storage.path import locate
from pipeline.storage.store_address import is_missing
from pipeline.tracking.provenance import FOLDER_TAG
from pipeline.tracking.uri import tracking_uri


def find_run(reference: str, *, storage: str = "runs", tracking: TrackingConfig | None = None) -> RunFolder:
    """The run that `reference` names: as `pipeline.runs.find_run`, and an MLflow run id or a registered model (NAME or
    models:/NAME/VERSION).

    Raises: UserError naming the nearest names there are.
    """
    tracking = tracking or TrackingConfig()
    folder = look_up(reference, storage)
    if folder is None and tracking.enabled:
        folder = _tracked(reference, tracking)
    if folder is None:
        raise unknown(reference, storage, " or in MLflow" if tracking.enabled else "")
    return folder


def _tracked(reference: str, tracking: TrackingConfig) -> RunFolder | None:
    """The folder of a run that MLflow knows by its id or as a registered model, if it is still there."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    uri = tracking_uri(tracking)
    if is_missing(uri):
        return None  # Looking must not make a store.
    client = MlflowClient(uri)
    name, _, version = reference.removeprefix("models:/").partition("/")
    try:
        if not version:
            versions = client.search_model_versions(f"name='{name}'")
            version = max((int(one.version) for one in versions), default="")
        run_id = client.get_model_version(name, str(version)).run_id if version else reference
        path = client.get_run(run_id or "").data.tags.get(FOLDER_TAG)
    except MlflowException:
        return None
    folder = RunFolder(locate(path)) if path else None
    return folder if folder and folder.config() is not None else None
