"""Who works in a folder: one process at a time, known by name, on any file system and on a store that knows no locks.

Where the file system has locks the file is locked (`pipeline.storage.lock`): the lock goes with its process, however it
ends. Not all of them tell other machines (NFS with `local_lock`), so the holder also writes the file again and again,
there as on a store: one that was left by another machine and stays as it is for a while belonged to a process that was
killed. What is not excluded: two that begin within the same moment, on two machines without a lock between them.
"""

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psutil

from h2q.errors import UserError
from pipeline.storage.lock import NO_LOCKS, lock
from pipeline.storage.path import AnyPath, UriPath
from pipeline.storage.repeated import repeated

RENEW_SECONDS = 5.0
"""Between two puts of a holder's file on a store."""
LOST_AFTER = 3
"""So many times as long without a put, and the holder counts as killed."""

_LONGEST = 512
"""Bytes of the file on a disk, so that a shorter text leaves nothing of a longer one."""


class Held(Exception):
    """Somebody else holds the file. Its text names the process, its machine and its start."""


@contextmanager
def held(path: AnyPath, say: Callable[[str], object] = lambda text: None) -> Iterator[None]:
    """Inside, nobody else holds the file. `say`: told of a wait.

    Raises: Held if a process holds it, of this machine or of another; OSError and UserError for a file that cannot be
    written.
    """
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "numbers": _numbers(),
        "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "began": psutil.Process().create_time(),
    }
    file = _locked(path)
    with file or nullcontext():
        _wait_for_the_dead(path, me, say, locked=file is not None)
        turns = itertools.count()

        def renew() -> None:
            with suppress(UserError, OSError):  # a store that is away: with the next turn
                _write(path, me | {"turn": next(turns)})

        _write(path, me)
        try:
            with repeated(renew, RENEW_SECONDS, "held"):
                yield
        finally:
            with suppress(UserError, OSError):  # it will be found to be left behind
                _clear(path)


def _locked(path: AnyPath) -> IO[bytes] | None:
    """The file, locked; None where its file system has no locks. Raises: Held; OSError for a file that cannot be
    written."""
    if isinstance(path, UriPath):
        return None
    try:
        return lock(path, wait=False)
    except BlockingIOError:
        raise Held(_named(_read(path))) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        path.touch()
        return None


def _write(path: AnyPath, holder: dict[str, Any]) -> None:
    content = json.dumps(holder).encode()
    if isinstance(path, UriPath):
        path.write_bytes(content)
        return
    with path.open("r+b", buffering=0) as file:  # the same file, which is locked
        file.write(content.ljust(_LONGEST))


def _clear(path: AnyPath) -> None:
    if isinstance(path, UriPath):
        path.unlink(missing_ok=True)
    elif path.exists():  # a run that was deleted meanwhile is not made again
        path.write_bytes(b"")


def _wait_for_the_dead(path: AnyPath, me: dict[str, Any], say: Callable[[str], object], *, locked: bool) -> None:
    """Return when nobody holds the file. Raises: Held."""
    found = _read(path)
    if not found:
        return
    if found.get("host") == me["host"]:
        if locked:  # which has told
            return
        if _runs(found):
            raise Held(_named(found))
        if me["numbers"] and found.get("numbers") == me["numbers"]:
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


def _numbers() -> str:
    """Among whom a process number names one process: this boot of the kernel, and its namespace of processes, since
    another container or machine may call itself the same. Empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    return ""


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
