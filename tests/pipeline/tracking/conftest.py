"""An open store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import TrackingConfig
from pipeline.tracking.store import MLflowStore


@pytest.fixture
def store(empty_store: Callable[[Path], str], tmp_path: Path) -> MLflowStore:
    """A store in mlflow.db of the test's folder."""
    return MLflowStore(TrackingConfig(uri=empty_store(tmp_path)))
