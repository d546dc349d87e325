"""A client of MLflow's store: a new SQLite store is made whole or not at all, and one that cannot work is told soon.

MLflow by itself builds its tables in some forty steps, which two processes spoil for each other, and tries a database
that it cannot open for 100 s, a server for 250 s.
"""

import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2q.errors import UserError, first_line
from pipeline.config import TrackingConfig
from pipeline.shown import without_secrets
from pipeline.storage.lock import lock
from pipeline.storage.store_address import is_missing, sqlite_address, sqlite_file
from pipeline.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SECONDS = 5
"""How long a server or database may take to answer; it is asked twice."""
_MAKING_SECONDS = 120.0
"""How long to wait for another process that makes the store."""


def open_client(uri: str, *, writing: bool = True) -> "MlflowClient":
    """A client that is quiet, of a store that answers; a SQLite file that is not there yet is made.

    Raises: UserError saying why the store cannot be used, or not be written to, and what to do.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It would print a server's address, password included, where a run ends.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with answering(uri):
        from mlflow.tracking import MlflowClient

        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        if file := sqlite_file(uri):
            _open_file(file, writing=writing)
        elif not uri.startswith(("http://", "https://")):
            _reach_database(uri)
        with _without_strays(uri):
            client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client


def reading_client(config: TrackingConfig) -> "MlflowClient | None":
    """A client for looking at the store; None where there is none yet: looking must not make one.

    Raises: UserError if it does not answer.
    """
    uri = tracking_uri(config)
    return None if is_missing(uri) else open_client(uri, writing=False)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Inside, whatever goes wrong with the store (in MLflow, SQLAlchemy, alembic, SQLite, a driver) is a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _unusable(uri, error) from error


def _unusable(uri: str, error: Exception) -> UserError:
    shown, file = without_secrets(uri), sqlite_file(uri)
    reason, ways = without_secrets(first_line(error)).removesuffix("."), "start it, "
    if file:
        ways = f"move {file} away to begin a new one, " if file.is_file() else ""
    if isinstance(error, ModuleNotFoundError):
        reason, ways = f"its driver {error.name} is missing", f"pip install {error.name}, "
    return UserError(
        f"tracking.uri must be an MLflow store that works, got {shown} ({reason}): {ways}name another with "
        "--tracking.uri, or train with --tracking.no-enabled"
    )


def _open_file(file: Path, *, writing: bool) -> None:
    """Make the store if need be. Raises: OSError or sqlite3.Error for a file that is no database, or cannot be used."""
    if is_missing(sqlite_address(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        _make(file)
    with closing(sqlite3.connect(file, timeout=20)) as database:
        database.execute("begin immediate" if writing else "select name from sqlite_master")


def _make(file: Path) -> None:
    """Make a new store beside the file, and put it in place when it is whole; who comes meanwhile waits."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    locked, until = file.with_name(f".{file.name}.lock"), time.monotonic() + _MAKING_SECONDS
    while True:
        try:
            held = lock(locked, wait=False)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise UserError(
                    f"another process has been making the MLflow store {file} for {_MAKING_SECONDS:.0f} s: end it, "
                    "or name another store with --tracking.uri"
                ) from None
            time.sleep(0.1)
    with held:
        if is_missing(sqlite_address(file)):
            beside = f".{file.name}-"
            for abandoned in file.parent.glob(f"{beside}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=beside, dir=file.parent) as scratch:
                made = Path(scratch) / "mlflow.db"
                with _without_strays(sqlite_address(made)):
                    store: Any = SqlAlchemyStore(sqlite_address(made), (file.parent / "mlartifacts").as_uri())
                store.engine.dispose()
                os.replace(made, file)
        locked.unlink(missing_ok=True)  # nobody needs it any more: the store is there


@contextmanager
def _without_strays(uri: str) -> Iterator[None]:
    """MLflow makes the folder of a SQLite file by its encoded name too: none that is empty is left, whoever made it. Of
    the folders above, those that both names share hold the other one."""
    yield
    file, folder = sqlite_file(uri), Path(uri.removeprefix(sqlite_address(""))).parent
    if file and folder != file.parent:
        for path in (folder, *folder.parents):
            with suppress(OSError):
                path.rmdir()


def _reach_database(uri: str) -> None:
    """Connect once, within seconds. Raises: what the driver raises, or ModuleNotFoundError where there is none."""
    import sqlalchemy

    timeout = {"connect_timeout": SECONDS} if uri.startswith(("postgresql", "mysql")) else {}
    engine = sqlalchemy.create_engine(uri, connect_args=timeout)
    engine.connect().close()
    engine.dispose()
