"""Finding a run that MLflow knows: by its id, or as a registered model."""

from h2q.errors import UserError
from pipeline.config import TrackingConfig
from pipeline.runs.find import look_up, unknown
from pipeline.runs.folder import RunFolder
from pipeline.storage.path import locate
from pipeline.tracking.client import reading_client
from pipeline.tracking.provenance import FOLDER_TAG


def find_run(reference: str, *, storage: str = "runs", tracking: TrackingConfig | None = None) -> RunFolder:
    """The run that `reference` names: as `pipeline.runs.find_run`, and an MLflow run id or a registered model (NAME or
    models:/NAME/VERSION).

    Raises: UserError naming the nearest names there are.
    """
    tracking = tracking or TrackingConfig()
    folder, also = look_up(reference, storage), ""
    if folder is None and tracking.enabled:
        try:
            folder, also = _tracked(reference, tracking), " or in MLflow"
        except UserError as error:
            also = f" (MLflow could not be asked: {error})"
    if folder is None:
        raise unknown(reference, storage, also)
    return folder


def _tracked(reference: str, tracking: TrackingConfig) -> RunFolder | None:
    """The folder of a run that MLflow knows by its id or as a registered model, if it is still there."""
    client = reading_client(tracking)
    if client is None:
        return None
    from mlflow.exceptions import MlflowException

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
