"""The address of a SQLite file, taken apart and put together in one place."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from pipeline.config import TrackingConfig
from pipeline.storage.store_address import given_address, is_missing, sqlite_address, sqlite_file


@pytest.mark.parametrize(
    "file", ["mlflow.db", "/data/mlflow.db", "a folder/mlflow.db", "/100%/a%b/mlflow.db", "/a%25b%3fc/d?/#1/mlflow.db"]
)
def test_a_file_and_its_address_belong_together(file: str) -> None:
    assert sqlite_file(sqlite_address(file)) == Path(file)
    assert make_url(sqlite_address(file)).database == file, "as SQLAlchemy reads it"
    assert sqlite_address("/data/mlflow.db") == "sqlite:////data/mlflow.db", "the form of SQLAlchemy"


def test_a_server_names_no_file() -> None:
    assert sqlite_file("http://127.0.0.1:5000") is None and not is_missing("http://127.0.0.1:5000")


def test_only_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    address = sqlite_address(tmp_path / "mlflow.db")
    assert is_missing(address)
    (tmp_path / "mlflow.db").touch()
    assert is_missing(address), "what is empty will be made too"
    (tmp_path / "mlflow.db").write_text("anything")
    assert not is_missing(address)


def test_the_option_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert given_address(TrackingConfig()) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert given_address(TrackingConfig()) == "http://tracker:5000"
    assert given_address(TrackingConfig(uri="sqlite:///mine.db")) == "sqlite:///mine.db"
