"""One process at a time, known by name, also where the file system has no locks."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from pipeline.storage import held as holding
from pipeline.storage.held import Held, held
from pipeline.storage.path import AnyPath, UriPath

HOLD = """
import sys, time
from pipeline.storage.held import held
from pipeline.storage.path import locate
with held(locate(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["disk", "store"])
def file(request: pytest.FixtureRequest, tmp_path: Path, store: Any) -> AnyPath:
    return tmp_path / ".lock" if request.param == "disk" else UriPath(store.uri(f"bucket/{tmp_path.name}")) / ".lock"


@pytest.mark.ray  # a program of its own
def test_another_process_is_named_until_it_is_killed(file: AnyPath) -> None:
    where = file.uri if isinstance(file, UriPath) else str(file)
    with subprocess.Popen([sys.executable, "-c", HOLD, where], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(Held, match=f"process {holder.pid} on {socket.gethostname()} "), held(file):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with held(file, pytest.fail), pytest.raises(Held, match=f"process {os.getpid()} on "), held(file):  # at once
            pass
        with held(file, pytest.fail):
            pass


@pytest.mark.parametrize(
    ("kind", "host"),
    [
        ("disk whose locks end at the machine", "another"),
        ("disk without locks", "another"),
        ("store", "another"),
        ("disk without locks", socket.gethostname()),
        ("store", socket.gethostname()),
    ],
)
def test_a_holder_that_is_not_seen_from_here_is_told_by_what_it_writes(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, host: str
) -> None:
    file = (UriPath(store.uri(f"bucket/{tmp_path.name}")) if kind == "store" else tmp_path) / ".lock"
    said: list[str] = []

    def no_lock(path: Path, *, wait: bool) -> IO[bytes]:
        if kind == "disk without locks":
            raise OSError(errno.ENOLCK, "No locks available")
        return path.open("ab")

    monkeypatch.setattr(holding, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(holding, "lock", no_lock)
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: host)
        there.setattr(holding, "_numbers", lambda: "of another container")
        there.setattr(psutil.Process, "create_time", lambda self: 0.0)
        with held(file):
            there.undo()
            with pytest.raises(Held, match=f"process {os.getpid()} on {host} "), held(file, said.append):
                pass
            left_behind = file.read_bytes()
    monkeypatch.setattr(holding, "RENEW_SECONDS", 0.05)
    file.write_bytes(left_behind)
    with held(file, said.append):
        pass
    assert [text.partition(" (")[0] for text in said] == [
        f"waiting 0 s to see whether process {os.getpid()} on {host}"
    ] * 2


def test_a_process_of_this_machine_is_seen_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(path: Path, *, wait: bool) -> IO[bytes]:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(holding, "lock", no_lock)
    with held(tmp_path / ".lock"), pytest.raises(Held, match=f"process {os.getpid()} on "), held(tmp_path / ".lock"):
        pass


def test_a_folder_that_was_deleted_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    with held(tmp_path / ".lock"):
        (tmp_path / ".lock").unlink()
    assert list(tmp_path.iterdir()) == []
