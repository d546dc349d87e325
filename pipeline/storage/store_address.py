"""The address of MLflow's store: which one is meant, and the file that it names where the store is one of SQLite."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from pipeline.config import TrackingConfig

_SQLITE = "sqlite:///"


def given_address(config: TrackingConfig) -> str:
    """The address as it was given: by the option, by the environment, or else mlflow.db in the working directory."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address("mlflow.db")


def sqlite_address(file: Path | str) -> str:
    """The address of a store in a SQLite file; what would begin a query or stand for another letter is encoded."""
    return _SQLITE + re.sub(r"[?]|%(?=[0-9A-Fa-f]{2})", lambda found: f"%{ord(found[0]):02X}", str(file))


def sqlite_file(address: str) -> Path | None:
    """The SQLite file that an address names, relative as it may be; None for a server or another database."""
    return Path(unquote(address.removeprefix(_SQLITE))) if address.startswith(_SQLITE) else None


def is_missing(address: str) -> bool:
    """Whether the store would be a SQLite file that is not there, or is empty: to open it would make it."""
    file = sqlite_file(address)
    return file is not None and not (file.exists() and (file.is_dir() or file.stat().st_size))
