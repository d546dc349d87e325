"""Where a file is: a pathlib.Path on a disk, a UriPath on another file system (`s3://`, `gs://`, `hdfs://`).

All that is read and written goes through one of the two, so hardly anything else asks which it is.
"""

import errno
import fnmatch
import os
import reprlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from h2q.errors import UserError, require
from pipeline.shown import without_secrets
from pipeline.storage import uri as storage
from pipeline.storage.uri import sync_folder

LONGEST_NAME = 255
"""Bytes of a file's name, on any file system that matters."""
_LONGEST_PATH = 4095
PATIENCE = (1.0, 2.0, 4.0, 8.0)
"""Seconds between the tries of a write to a URI. S3's own client tries for 6 s each time."""


@dataclass(frozen=True, order=True, repr=False)
class UriPath:
    """The part of pathlib.Path that runs use, for a URI. Its text shows no password.

    A file appears only when it is complete. Raises: UserError where the file system does not answer, or refuses.
    """

    uri: str

    def __str__(self) -> str:
        return without_secrets(self.uri)

    __repr__ = __str__

    def __truediv__(self, name: str) -> "UriPath":
        return UriPath(storage.join(self.uri, name))

    @property
    def name(self) -> str:
        return unquote(self.uri.partition("?")[0]).rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "UriPath":
        base, mark, query = self.uri.partition("?")
        return UriPath(base.rstrip("/").rpartition("/")[0] + mark + query)

    def exists(self) -> bool:
        return storage.info(self).type.name != "NotFound"

    def stat(self) -> Any:
        """`st_size` in bytes and `st_mtime` in seconds."""
        found = storage.info(self)
        if found.type.name == "NotFound":
            raise self._missing()
        return SimpleNamespace(st_size=found.size, st_mtime=(found.mtime_ns or 0) / 1e9)

    def read_bytes(self) -> bytes:
        try:
            return storage.read(self)
        except FileNotFoundError as error:
            raise self._missing() from error

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: Any) -> None:
        """Write the whole file; where that fails, try again for a while."""
        for wait in PATIENCE:
            try:
                return storage.write_atomic(self, data)
            except UserError:
                time.sleep(wait)
        storage.write_atomic(self, data)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def touch(self) -> None:
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and not self.exists():
            raise self._missing()
        storage.remove(self)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Parents are always made. Of two that make the same folder at the same moment, both may succeed."""
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
        storage.make_folder(self, "--storage")

    def glob(self, pattern: str) -> "Iterator[UriPath]":
        """What fits the pattern, without `**`; in the order of names."""
        first, _, rest = pattern.partition("/")
        for name in storage.names_in(self):
            if fnmatch.fnmatchcase(name, first):
                yield from (self / name).glob(rest) if rest else [self / name]

    def _missing(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))


AnyPath = Path | UriPath
"""Where a file or folder is. Configs have it as text, which `locate` reads where it comes in."""


def locate(text: str) -> Path:
    """What a path or a URI in a config names, absolute: a Path, also for a `file://` URI, or a UriPath.

    To a type checker a Path: of one, runs use what a UriPath has too, and no more.
    """
    require(
        not storage.is_uri(text) or text.partition("://")[2].strip("/") != "",
        f"a URI must name a bucket, a folder or a file behind ://, got {text!r}",
    )
    parts = [len(part.encode("utf-8", "surrogatepass")) for part in text.split("/")]
    require(
        (max(parts) <= LONGEST_NAME and sum(parts) + len(parts) <= _LONGEST_PATH) or storage.is_uri(text),
        f"a path must have at most {LONGEST_NAME} bytes between two /, and {_LONGEST_PATH} in all, got "
        f"{reprlib.repr(text)}",
    )
    local = storage.local_path(text)
    remote: Any = UriPath(storage.absolute(text))
    return remote if local is None else Path(storage.absolute(local))


def text_of(path: AnyPath) -> str:
    """What `locate` makes this path of: not to be shown, a URI may hold a password."""
    return path.uri if isinstance(path, UriPath) else str(path)


@contextmanager
def on_disk(path: AnyPath) -> Iterator[Path]:
    """A file, or a folder of files, as a path on this machine's disk: itself, or a copy for the time being."""
    if not isinstance(path, UriPath):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        inside = list(path.glob("*"))
        if inside:
            copy.mkdir()
        for file in inside or [path]:
            with storage.opened(file) as source, (copy / file.name if inside else copy).open("wb") as target:
                shutil.copyfileobj(source, target)
        yield copy


def write_file(file: AnyPath, data: Any) -> None:
    """Write a file that is absent or complete at any moment."""
    if isinstance(file, UriPath):
        file.write_bytes(data)
    else:
        storage.write_atomic(file, data)


def write_whole(folder: AnyPath, files: dict[str, bytes]) -> None:
    """Write a folder of files of which the last one is the mark that all are there; a folder of that name is replaced.

    On a disk: written beside, made durable, renamed; the folder around it is made, but none above: a run that was moved
    away does not begin again where it was. Elsewhere, where nothing can be renamed: the mark is taken away
    first and written last.
    """
    if isinstance(folder, UriPath):
        *_, mark = files
        (folder / mark).unlink(missing_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    with suppress(FileExistsError):
        folder.parent.mkdir()
    beside.mkdir()
    try:
        for name, content in files.items():
            _write_durably(beside / name, content)
        sync_folder(beside)
        replaced = beside.with_name(f"{beside.name}.replaced")
        with suppress(FileNotFoundError):
            folder.rename(replaced)
        beside.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def is_whole(folder: AnyPath, mark: str) -> bool:
    """Whether the folder was written to its end: on a disk its name says so, elsewhere the mark."""
    return (folder / mark).exists() if isinstance(folder, UriPath) else True


def remove_whole(folder: AnyPath, mark: str) -> None:
    """Delete a folder of `write_whole` so that one half deleted is none: renamed, or its mark taken away, first."""
    if isinstance(folder, UriPath):
        (folder / mark).unlink(missing_ok=True)
        storage.remove_folder(folder)
        return
    if not folder.name.startswith("."):
        folder = folder.rename(folder.with_name(f".{folder.name}.removed"))
    shutil.rmtree(folder, ignore_errors=True)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
