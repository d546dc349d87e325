"""One process at a time; a process that is killed leaves nothing locked."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.storage.lock import NO_LOCKS, is_locked, lock, lock_shared

HOLD = """
import sys, time
from pathlib import Path
from pipeline.storage.lock import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.ray  # a program of its own
def test_another_process_is_kept_out_until_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert is_locked(path)
        with pytest.raises(BlockingIOError):
            lock(path, wait=False)
        holder.send_signal(signal.SIGKILL)
        with lock(path):
            assert is_locked(path)
    assert not is_locked(path)


def test_shared_locks_go_together_and_keep_the_others_out(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    handles = [os.open(path, os.O_RDONLY) for _ in range(2)]
    for handle in handles:
        lock_shared(handle)
    with pytest.raises(BlockingIOError):
        lock(path, wait=False)
    os.close(handles[0])
    assert is_locked(path)
    os.close(handles[1])
    assert not is_locked(path) and not is_locked(tmp_path / "none")
    with lock(path, wait=False):
        pass


@pytest.mark.parametrize("number", [*NO_LOCKS, errno.EIO])
def test_nothing_is_locked_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_lock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    if number in NO_LOCKS:
        assert not is_locked(tmp_path)
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            is_locked(tmp_path)


def test_a_lock_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock(tmp_path / "none" / ".lock")
