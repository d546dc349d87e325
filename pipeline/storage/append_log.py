"""A file of lines that grows: appended to on a disk; on an object store, which cannot append, rewritten whole.

Putting the whole file again keeps one file with one format wherever a run lies. What that costs is bounded: it is done
every 5 s at most, and more rarely as the file grows, so that no more than 1 MB/s goes up (a record is about 0.5 kB: a
run of 100 000 steps ends at 5 MB). Between two puts the lines are in the writer's memory; a killed writer computes
them again anyway, because `sync` is called before a checkpoint is committed.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from h2q.errors import UserError
from pipeline.storage.path import UriPath
from pipeline.storage.uri import open_regular

PUT_SECONDS = 5.0
"""Least time between two puts."""
PUT_RATE = 1e6
"""Bytes a second that puts take on average, at most."""


class Growing(Protocol):
    """The writer's end."""

    def append(self, line: str) -> None:
        """Add a line; a reader sees it whole or not at all, now or soon."""

    def sync(self) -> None:
        """Return when all lines are durable. Any thread may call it."""

    def close(self) -> None:
        """Sync, and write no more."""


class Tail(Protocol):
    """A reader's end."""

    every_seconds: float
    """How often it is worth to look."""

    def read(self) -> bytes:
        """Whole lines that were not read yet; lines may come again when the file was started over."""
        ...


def growing(path: Path, start: str) -> Growing:
    """Start the file over with these lines."""
    return _OnStore(path, start) if isinstance(path, UriPath) else _OnDisk(path, start)


def tail(path: Path) -> Tail:
    """Follow the file, whether it is there already or not."""
    return _StoreTail(path) if isinstance(path, UriPath) else _DiskTail(path)


class _OnDisk:
    def __init__(self, path: Path, start: str) -> None:
        beside = path.with_name(path.name + ".tmp")
        beside.write_text(start)
        beside.replace(path)
        self._file = path.open("a")

    def append(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()


class _OnStore:
    def __init__(self, path: UriPath, start: str) -> None:
        self._path = path
        self._content = bytearray(start.encode())
        self._putting = threading.Lock()
        self._closed = threading.Event()
        path.write_bytes(bytes(self._content))
        self._stored = len(self._content)
        self._thread = threading.Thread(target=self._run, name=f"put {path.name}", daemon=True)
        self._thread.start()

    def append(self, line: str) -> None:
        self._content += line.encode()

    def sync(self) -> None:
        with self._putting:
            content = bytes(self._content)
            if len(content) != self._stored:
                self._path.write_bytes(content)
                self._stored = len(content)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self.sync()

    def _run(self) -> None:
        while not self._closed.wait(max(PUT_SECONDS, len(self._content) / PUT_RATE)):
            with suppress(UserError):  # the lines wait for the next time
                self.sync()


class _DiskTail:
    every_seconds = 0.25

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset, self._last = 0, b""

    def read(self) -> bytes:
        try:
            with open_regular(self._path) as file:
                # A writer that starts again replaces the file: without the line that was read last, it is read from its
                # start. Its inode does not tell: that of a file before may be given to it.
                file.seek(self._offset - len(self._last))
                offset = self._offset if file.read(len(self._last)) == self._last else 0
                file.seek(offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return b""
        if newline:
            self._offset, self._last = offset + len(whole) + 1, whole.rpartition(b"\n")[2] + newline
        return whole


class _StoreTail:
    every_seconds = 2.0

    def __init__(self, path: UriPath) -> None:
        self._path = path
        self._seen: tuple[int, float] | None = None

    def read(self) -> bytes:
        try:
            found = self._path.stat()
            now = (found.st_size, found.st_mtime)
            content = b"" if now == self._seen else self._path.read_bytes()
        except FileNotFoundError:
            return b""
        self._seen = now
        return content
