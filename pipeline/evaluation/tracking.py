"""An evaluation, or what was exported, in MLflow: in the run that it is of."""

from pathlib import Path

from h2q.errors import UserError, first_line
from pipeline.config import TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.shown import without_secrets
from pipeline.storage.store_address import is_missing


def log_evaluation(
    folder: RunFolder,
    tracking: TrackingConfig,
    metrics: dict[str, float],
    step: int,
    files: list[Path],
    *,
    under: str = "evaluation",
) -> str | None:
    """Log metrics, each value once however often it is repeated, and files, replacing what has their name `under` that
    folder of the run's artifacts.

    Returns why nothing was logged, for people, or None. The run's status is left as it is.
    """
    tracked = folder.mlflow_run()
    if tracked is None:
        return "the run was not tracked: nothing is logged to MLflow"
    uri = tracking.uri or tracked["tracking_uri"]
    if is_missing(uri):
        return f"the run's MLflow store is gone ({uri}): nothing is logged to MLflow"
    from mlflow.exceptions import MlflowException

    from pipeline.tracking.client import open_client

    try:
        client, run_id = open_client(uri), tracked["run_id"]
        for name, value in metrics.items():
            logged = {(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)}
            if (step, value) not in logged:
                client.log_metric(run_id, name, value, step=step)
        for file in files:
            client.log_artifact(run_id, str(file), under)
    except (MlflowException, UserError) as error:
        told = f"MLflow did not take the {under} ({first_line(error)}): repeat it when {uri} answers"
        return without_secrets(told)
    return None
