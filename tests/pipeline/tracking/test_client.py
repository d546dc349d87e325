"""A new store is made whole or not at all, and one that cannot work is told soon, with the way out."""

import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.config import TrackingConfig
from pipeline.storage.store_address import sqlite_address
from pipeline.tracking.client import open_client, reading_client


def test_a_server_that_is_away_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9.*start it.*--tracking\.no-enabled"):
        open_client("http://127.0.0.1:9")


@pytest.mark.ray  # waits for a server
def test_a_server_that_takes_connections_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = r"timed out.*start it, name another with --tracking\.uri"
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match=said):
        open_client(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_database_without_its_driver_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"its driver (psycopg2?) is missing\): pip install \1,"):
        open_client("postgresql://nobody:hidden@127.0.0.1:9/mlflow")


def test_what_cannot_be_a_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database")
    with pytest.raises(UserError, match=r"file is not a database\): move .*notes\.db away.*--tracking\.no-enabled"):
        open_client(f"sqlite:///{tmp_path}/notes.db")
    with pytest.raises(UserError, match=r"notes\.db'?\): name another"):
        open_client(f"sqlite:///{tmp_path}/notes.db/mlflow.db")
    with pytest.raises(UserError, match=r"unable to open database file\): name another"):
        open_client(f"sqlite:///{tmp_path}")


@pytest.mark.filterwarnings("ignore:Unnamed CHECK constraint")  # alembic's, of tables that are MLflow's
def test_a_store_that_was_left_half_made_is_said(tmp_path: Path, empty_store: Callable[[Path], str]) -> None:
    """As MLflow leaves it that is killed, or disturbed by another, while it makes its tables."""
    uri = empty_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("create table _alembic_tmp_experiments (experiment_id integer)")
        database.execute("drop table trace_info")
        database.execute("update alembic_version set version_num = '451aebb31d03'")
        database.commit()
    with pytest.raises(UserError, match=r"already exists\): move .*mlflow\.db away to begin a new one"):
        open_client(uri)


def test_looking_makes_nothing(tmp_path: Path) -> None:
    assert reading_client(TrackingConfig(uri=f"sqlite:///{tmp_path}/a/mlflow.db")) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_several_first_runs_at_once_share_one_store(tmp_path: Path) -> None:
    """Beside what a process left that was killed while it made one. In a folder whose name must be encoded."""
    folder = tmp_path / "100%25 of what? #1"
    (folder / ".mlflow.db-killed").mkdir(parents=True)
    (folder / ".mlflow.db.lock").touch()
    (folder / "mlflow.db").touch()
    line = (
        "from pipeline.config import TrackingConfig; from pipeline.tracking.store import MLflowStore; "
        "store = MLflowStore(TrackingConfig()); print(store.client.create_run(store.experiment_id).info.run_id)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", line], cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [process.communicate()[0].strip() for process in started]
    client = open_client(sqlite_address(folder / "mlflow.db"))
    experiments = [one.experiment_id for one in client.search_experiments() if one.name == "h2q"]
    assert sorted(run.info.run_id for run in client.search_runs(experiments)) == sorted(told)
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    assert list(tmp_path.iterdir()) == [folder]
