"""Locks of the file system (flock): they go with the process that holds them, however it ends."""

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a file system without locks."""


def lock(path: Path, *, wait: bool = True) -> IO[bytes]:
    """The file, made if need be, locked for its holder alone until it is closed: `with lock(path): …`.

    Raises: BlockingIOError if it is held already and `wait` is not wanted; OSError for a file that cannot be opened.
    """
    file = open(path, "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def lock_shared(handle: int) -> None:
    """Lock an open file together with others until it is closed; waits for who holds it alone."""
    fcntl.flock(handle, fcntl.LOCK_SH)


def is_locked(path: Path) -> bool:
    """Whether a process holds the file, alone or shared; False where there is none, and where nothing can be locked."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    finally:
        os.close(handle)
    return False
