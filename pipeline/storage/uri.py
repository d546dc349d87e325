"""URIs as text, and pyarrow's file systems behind them (`s3://`, `gs://`, `hdfs://`) and behind a local path."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from h2q.errors import UserError, first_line, require

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo, FileSystem

    from pipeline.storage.path import AnyPath

_WHOLE_OBJECTS = ("s3", "gcs", "abfs")
"""Stores that show an object only once it is complete, and that cannot rename: there, the write itself is atomic."""


class DamagedFile(UserError):
    """A file that does not hold what was written: its name, the field, what was found, what to do."""


def is_uri(path: str) -> bool:
    """Whether the path names a file system (`s3://…`); a local path, absolute or not, does not."""
    return "://" in path


def absolute(path: str) -> str:
    """The path made absolute (`~` expanded); a URI unchanged but for a trailing slash."""
    return path.rstrip("/") if is_uri(path) else str(Path(os.path.expanduser(path)).absolute())


def join(folder: str, name: str) -> str:
    """The path of `name` in the folder; in a URI, before its query."""
    if not is_uri(folder):
        return f"{folder.rstrip('/')}/{name}"
    base, mark, query = folder.partition("?")
    return f"{base.rstrip('/')}/{quote(name)}{mark}{query}"


def local_path(path: str) -> str | None:
    """The path on this machine's disk, or None for a remote file system."""
    if not is_uri(path):
        return path
    parts = urlsplit(path)
    return unquote(parts.path) if parts.scheme == "file" else None


def filesystem(path: "AnyPath") -> tuple["FileSystem", Any]:
    """pyarrow's file system of a path, and the path inside it: on a disk bytes, since names there need not be UTF-8.

    Raises: UserError for a URI that pyarrow cannot open.
    """
    import pyarrow as pa
    from pyarrow import fs

    if isinstance(path, Path):
        return fs.LocalFileSystem(), os.fsencode(path)
    try:
        return fs.FileSystem.from_uri(path.uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ImportError) as error:
        raise UserError(f"cannot open {path}: {first_line(error)}; give a path or a URI that pyarrow knows") from error


@contextlib.contextmanager
def opened(path: "AnyPath") -> Iterator["NativeFile"]:
    """The file for random reads. Raises: UserError when it is missing or may not be read."""
    where, inner = filesystem(path)
    try:
        file = where.open_input_file(inner)
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    with file:
        yield file


def read(path: "AnyPath", *, limit: int | None = None) -> bytes:
    """The whole file, of `limit` bytes at most. Raises: FileNotFoundError when there is none; UserError when it cannot
    be read, is larger, or is no file: nothing is waited for."""
    try:
        if isinstance(path, Path):
            with open_regular(path) as file:
                _check_size(path, os.fstat(file.fileno()).st_size, limit)
                return file.read()
        where, inner = filesystem(path)
        with where.open_input_file(inner) as file:
            _check_size(path, file.size(), limit)
            return file.read()
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or first_line(error)}") from error


def head(path: "AnyPath", size: int) -> bytes:
    """The first bytes of a file, quickly: there may be a hundred thousand. Raises: UserError when it cannot be read."""
    if not isinstance(path, Path):
        with opened(path) as file:
            return file.read(size)
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error


def open_regular(path: Path) -> BufferedReader:
    """A local file for reading; a pipe or device, which might never answer, is refused. Raises: UserError; OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = open(handle, "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise DamagedFile(f"{path} must be a file, found a folder, pipe or device: take it away")
    return file


def _check_size(path: "AnyPath", size: int, limit: int | None) -> None:
    require(limit is None or size <= limit, f"{path} must have at most {limit} bytes, found {size}: take it away")


def write_atomic(path: "AnyPath", data: Any) -> None:
    """Write bytes (any buffer) so that `path` is absent or complete, never between: beside, to disk, renamed.

    Raises: UserError when the folder cannot be written, or `path` is a device, a pipe or a folder.
    """
    try:
        if isinstance(path, Path):
            _write_local(path, data)
            return
        where, inner = filesystem(path)
        direct = where.type_name in _WHOLE_OBJECTS
        target = inner if direct else f"{inner.rpartition('/')[0]}/.{uuid.uuid4().hex}.tmp"
        with where.open_output_stream(target) as file:
            file.write(data)
        if where.type_name == "hdfs":  # its move does not replace
            with contextlib.suppress(FileNotFoundError):
                where.delete_file(inner)
        if not direct:
            where.move(target, inner)
    except OSError as error:
        raise UserError(f"cannot write {path}: {first_line(error)}; choose a folder that can be written") from error


def write_blocks(path: "AnyPath", blocks: Iterable[bytes]) -> int:
    """Write a file as its bytes come, which need not be atomic; how many there were. Raises: UserError when it cannot
    be written; whatever the blocks raise."""
    where, inner = filesystem(path)
    size = 0
    with _writing(path):
        file = where.open_output_stream(inner)
    try:
        for block in blocks:
            with _writing(path):
                file.write(block)
            size += len(block)
    finally:
        with _writing(path):
            file.close()
    return size


@contextlib.contextmanager
def _writing(path: "AnyPath") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {first_line(error)}; choose a folder that can be written") from error


def _write_local(path: Path, data: Any) -> None:
    if path.is_symlink():
        path = Path(os.path.realpath(path))  # a link goes on pointing to what is written; one to itself is replaced
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is no regular file, and would be replaced by one; name another file")
    beside = path.with_name(f".{uuid.uuid4().hex}.tmp")  # not of its name, which may be as long as one can be
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: "AnyPath", option: str = "--corpus.prepared") -> None:
    """Make the folder and its parents. Raises: UserError, naming the option, when that cannot be done."""
    where, inner = filesystem(path)
    try:
        if where.type_name not in _WHOLE_OBJECTS:
            where.create_dir(inner, recursive=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {first_line(error)}; choose another {option}") from error


def remove(path: "AnyPath") -> None:
    """Delete the file if it is there. Raises: UserError when that cannot be done."""
    where, inner = filesystem(path)
    _delete(where.delete_file, inner, path)


def remove_folder(path: "AnyPath") -> None:
    """Delete the folder and all in it if it is there. Raises: UserError when that cannot be done."""
    where, inner = filesystem(path)
    _delete(where.delete_dir, inner, path)


def _delete(delete: Callable[[str], None], inner: str, path: "AnyPath") -> None:
    try:
        delete(inner)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot delete {path}: {first_line(error)}") from error


def info(path: "AnyPath") -> "FileInfo":
    """What is at the path: type, size, time of change; of type NotFound for nothing. Raises: UserError."""
    where, inner = filesystem(path)
    try:
        return where.get_file_info(inner)
    except OSError as error:
        raise UserError(f"cannot look at {path}: {first_line(error)}") from error


def names_in(folder: "AnyPath") -> list[str]:
    """Names of the files and folders directly in the folder, sorted; none for no folder. Raises: UserError."""
    return sorted(info.base_name for info in _infos_in(folder))


def sizes_in(folder: "AnyPath") -> dict[str, int]:
    """Name → bytes of the files directly in the folder, hidden ones too, by one listing; none for no folder."""
    from pyarrow import fs

    return {info.base_name: info.size for info in _infos_in(folder) if info.type == fs.FileType.File}


def size_of(folder: "AnyPath") -> int:
    """Bytes of all files in the folder and below it."""
    return sum(info.size or 0 for info in _infos_in(folder, recursive=True))


def _infos_in(folder: "AnyPath", *, recursive: bool = False) -> list["FileInfo"]:
    from pyarrow import fs

    where, inner = filesystem(folder)
    try:
        return where.get_file_info(fs.FileSelector(inner, recursive=recursive, allow_not_found=True))
    except OSError as error:
        raise UserError(f"cannot list {folder}: {first_line(error)}") from error
