"""Who works in a folder: one process at a time, known by name, on a disk and on a store that knows no locks.

On a disk the file is locked (`pipeline.storage.lock`): the lock goes with its process, however it ends. Elsewhere its
holder puts the file again and again, and one that stays as it is for a while counts as left behind by a process that
was killed; of two that begin within the same moment there, both may go on.
"""

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import psutil

from h2q.errors import UserError
from pipeline.storage.lock import lock
from pipeline.storage.path import AnyPath, UriPath
from pipeline.storage.repeated import repeated

RENEW_SECONDS = 5.0
"""Between two puts of a holder's file on a store."""
LOST_AFTER = 3
"""So many times as long without a put, and the holder counts as killed."""


class Held(Exception):
    """Somebody else holds the file. Its text names the process, its machine and its start."""


@contextmanager
def held(path: AnyPath, say: Callable[[str], object] = lambda text: None) -> Iterator[None]:
    """Inside, nobody else holds the file. `say`: told of a wait.

    Raises: Held if a process holds it; OSError and UserError for a file that cannot be written.
    """
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "began": psutil.Process().create_time(),
    }
    with _renewed(path, me, say) if isinstance(path, UriPath) else _locked(path, me):
        yield


@contextmanager
def _locked(path: Any, me: dict[str, Any]) -> Iterator[None]:
    try:
        file = lock(path, wait=False)
    except BlockingIOError:
        raise Held(_named(_read(path))) from None
    with file:
        file.truncate(0)
        file.write(json.dumps(me).encode())
        file.flush()
        yield


@contextmanager
def _renewed(path: UriPath, me: dict[str, Any], say: Callable[[str], object]) -> Iterator[None]:
    _wait_for_the_dead(path, me, say)
    turns = itertools.count()

    def renew() -> None:
        with suppress(UserError):  # a store that is away: with the next turn
            path.write_bytes(json.dumps(me | {"turn": next(turns)}).encode())

    path.write_bytes(json.dumps(me).encode())
    try:
        with repeated(renew, RENEW_SECONDS, "held"):
            yield
    finally:
        with suppress(UserError):  # it will be found to be left behind
            path.unlink(missing_ok=True)


def _wait_for_the_dead(path: UriPath, me: dict[str, Any], say: Callable[[str], object]) -> None:
    """Return when nobody holds the file. Raises: Held."""
    found = _read(path)
    if not found:
        return
    if found.get("host") == me["host"]:
        if _runs(found):
            raise Held(_named(found))
        return
    seconds = LOST_AFTER * RENEW_SECONDS
    say(f"waiting {seconds:.0f} s to see whether {_named(found)} still works there")
    for _ in range(LOST_AFTER):
        time.sleep(RENEW_SECONDS)
        now = _read(path)
        if not now:
            return
        if now != found:
            raise Held(_named(now))


def _runs(holder: dict[str, Any]) -> bool:
    """Whether this process of this machine still runs; not another one that was given its number since."""
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["began"]) < 1
    except (psutil.Error, KeyError, TypeError):
        return False


def _read(path: AnyPath) -> dict[str, Any]:
    """What the holder says of itself; nothing where it says nothing that can be read."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _named(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')} (since {holder.get('since')})"
