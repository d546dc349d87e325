"""The URI of the tracking store, and how a person opens it: the command of MLflow's UI and the page of the runs."""

import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlparse

from h2q.errors import UserError, require
from pipeline.config import TrackingConfig
from pipeline.shown import without_secrets
from pipeline.storage.store_address import given_address, sqlite_address, sqlite_file
from pipeline.tracking import ui_view


def tracking_uri(config: TrackingConfig) -> str:
    """The absolute URI of the tracking store: the option's, the environment's, or mlflow.db in the working directory.

    Raises: UserError for a plain folder, which MLflow no longer tracks in, and for a SQLite address with a query.
    """
    uri = given_address(config)
    shown = without_secrets(uri)
    scheme, _, rest = uri.partition(":")
    require(
        not scheme.startswith("sqlite") or rest.strip("/") not in ("", ":memory:"),
        f"tracking.uri must name a file, in which runs stay, got {shown!r}: try sqlite:///mlflow.db",
    )
    if file := sqlite_file(uri):
        require("?" not in uri, f"tracking.uri takes no query, got {shown!r}: a ? in the name of a file is written %3F")
        uri = sqlite_address(file.absolute())
    if urlparse(uri).scheme in ("", "file"):
        raise UserError(f"tracking.uri must be a database or a server, got {shown!r}: try sqlite:///mlflow.db")
    return uri


def ui_command(uri: str) -> str | None:
    """The one command that starts MLflow's UI on this store; None for a server, which shows itself."""
    if urlparse(uri).scheme in ("http", "https"):
        return None
    return f"{mlflow_program()} ui --backend-store-uri {shlex.quote(uri)}"


def mlflow_command(uri: str, command: str) -> str:
    """A command of MLflow's on this store, as a shell takes it."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} {mlflow_program()} {command}"


def mlflow_program() -> str:
    """What a shell must be told to start the mlflow of this Python."""
    beside = Path(sys.executable).with_name("mlflow")
    on_path = shutil.which("mlflow") == str(beside) or not beside.exists()
    return "mlflow" if on_path else shlex.quote(str(beside))


def ui_address(uri: str, experiment_id: str) -> str:
    """The page that shows the experiment's runs with their curves side by side, under `ui_command` or on the server."""
    root = uri.rstrip("/") if urlparse(uri).scheme in ("http", "https") else "http://127.0.0.1:5000"
    # Without the first word the menu beside the runs would be the one for generative AI.
    shown = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={ui_view.KEY}"
    return f"{root}/#/experiments/{experiment_id}/runs?{shown}"
