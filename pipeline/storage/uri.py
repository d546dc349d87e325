"""Files by local path or URI (`s3://`, `gs://`, `hdfs://`, `file://`): list, read, and write them atomically."""

import contextlib
import fnmatch
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from h2q.errors import UserError, first_line, require

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo, FileSystem

_WHOLE_OBJECTS = ("s3", "gcs", "abfs")
"""Stores that show an object only once it is complete, and that cannot rename: there, the write itself is atomic."""


@dataclass(frozen=True)
class Found:
    """A file that a listing found: its path or URI, its name below the listed folder, bytes, time of change (ns)."""

    path: str
    label: str
    size: int
    mtime_ns: int


def is_uri(path: str) -> bool:
    """Whether the path names a file system (`s3://…`); a local path, absolute or not, does not."""
    return "://" in path


def is_shared(path: str) -> bool:
    """Whether every node of a cluster sees the path: URIs, `file://` included; a bare path lies on this node only."""
    return is_uri(path)


def absolute(path: str) -> str:
    """The path made absolute (`~` expanded); a URI unchanged but for a trailing slash."""
    return path.rstrip("/") if is_uri(path) else str(Path(path).expanduser().absolute())


def join(folder: str, name: str) -> str:
    """The path of `name` in the folder; in a URI, before its query."""
    if not is_uri(folder):
        return f"{folder.rstrip('/')}/{name}"
    base, mark, query = folder.partition("?")
    return f"{base.rstrip('/')}/{quote(name)}{mark}{query}"


def parent(path: str) -> str:
    """The folder that holds the last part of a path or URI."""
    base, mark, query = path.partition("?") if is_uri(path) else (path, "", "")
    return base.rstrip("/").rpartition("/")[0] + mark + query


def base_name(path: str) -> str:
    """The last part of a path or URI."""
    return unquote(path.partition("?")[0]).rstrip("/").rpartition("/")[2] if is_uri(path) else Path(path).name


def without_secrets(text: str) -> str:
    """The text (a path, a URI, a command line) without the users, passwords, keys and tokens of the URIs in it."""
    text = re.sub(r"://[^/@\s]*@", "://", text)
    return re.sub(r"([?&][^=&\s]*(?:secret|token|password|key)[^=&\s]*)=[^&\s]*", r"\1=", text, flags=re.IGNORECASE)


def local_path(path: str) -> str | None:
    """The path on this machine's disk, or None for a remote file system."""
    if not is_uri(path):
        return path
    parts = urlsplit(path)
    return unquote(parts.path) if parts.scheme == "file" else None


def filesystem(path: str) -> tuple["FileSystem", str]:
    """pyarrow's file system of a path and the path inside it. Raises: UserError for a URI that pyarrow cannot open."""
    import pyarrow as pa
    from pyarrow import fs

    local = local_path(path)
    if local is not None:
        return fs.LocalFileSystem(), local
    try:
        return fs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ImportError) as error:
        shown = without_secrets(path)
        raise UserError(f"cannot open {shown}: {first_line(error)}; give a path or a URI that pyarrow knows") from error


@contextlib.contextmanager
def opened(path: str) -> Iterator["NativeFile"]:
    """The file for random reads. Raises: UserError when it is missing or may not be read."""
    where, inner = filesystem(path)
    try:
        file = where.open_input_file(inner)
    except OSError as error:
        raise UserError(f"cannot read {without_secrets(path)}: {first_line(error)}") from error
    with file:
        yield file


def read(path: str) -> bytes:
    """The whole file. Raises: FileNotFoundError when there is none; UserError when it cannot be read."""
    where, inner = filesystem(path)
    try:
        with where.open_input_file(inner) as file:
            return file.read()
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {without_secrets(path)}: {first_line(error)}") from error


def write_atomic(path: str, data: Any) -> None:
    """Write bytes (any buffer) so that `path` is absent or complete, never between: beside, to disk, renamed.

    Raises: UserError when the folder cannot be written.
    """
    local = local_path(path)
    try:
        if local is not None:
            _write_local(Path(local), data)
            return
        where, inner = filesystem(path)
        direct = where.type_name in _WHOLE_OBJECTS
        target = inner if direct else f"{inner}.{uuid.uuid4().hex}.tmp"
        with where.open_output_stream(target) as file:
            file.write(data)
        if where.type_name == "hdfs":  # its move does not replace
            with contextlib.suppress(FileNotFoundError):
                where.delete_file(inner)
        if not direct:
            where.move(target, inner)
    except OSError as error:
        shown = without_secrets(path)
        raise UserError(f"cannot write {shown}: {first_line(error)}; choose a folder that can be written") from error


def _write_local(path: Path, data: Any) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
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


def make_folder(path: str, option: str = "--corpus.prepared") -> None:
    """Make the folder and its parents. Raises: UserError, naming the option, when that cannot be done."""
    where, inner = filesystem(path)
    try:
        if where.type_name not in _WHOLE_OBJECTS:
            where.create_dir(inner, recursive=True)
    except OSError as error:
        shown = without_secrets(path)
        raise UserError(f"cannot make the folder {shown}: {first_line(error)}; choose another {option}") from error


def remove(path: str) -> None:
    """Delete the file if it is there. Raises: UserError when that cannot be done."""
    where, inner = filesystem(path)
    _delete(where.delete_file, inner, path)


def remove_folder(path: str) -> None:
    """Delete the folder and all in it if it is there. Raises: UserError when that cannot be done."""
    where, inner = filesystem(path)
    _delete(where.delete_dir, inner, path)


def _delete(delete: Callable[[str], None], inner: str, path: str) -> None:
    try:
        delete(inner)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot delete {without_secrets(path)}: {first_line(error)}") from error


def info(path: str) -> "FileInfo":
    """What is at the path: type, size, time of change; of type NotFound for nothing. Raises: UserError."""
    where, inner = filesystem(path)
    try:
        return where.get_file_info(inner)
    except OSError as error:
        raise UserError(f"cannot look at {without_secrets(path)}: {first_line(error)}") from error


def names_in(folder: str) -> list[str]:
    """Names of the files and folders directly in the folder, sorted; none for no folder. Raises: UserError."""
    return sorted(info.base_name for info in _infos_in(folder))


def sizes_in(folder: str) -> dict[str, int]:
    """Name → bytes of the files directly in the folder, hidden ones too, by one listing; none for no folder."""
    from pyarrow import fs

    return {info.base_name: info.size for info in _infos_in(folder) if info.type == fs.FileType.File}


def _infos_in(folder: str) -> list["FileInfo"]:
    from pyarrow import fs

    where, inner = filesystem(folder)
    try:
        return where.get_file_info(fs.FileSelector(inner, recursive=False, allow_not_found=True))
    except OSError as error:
        raise UserError(f"cannot list {without_secrets(folder)}: {first_line(error)}") from error


def find(pattern: str) -> list[Found]:
    """The files that a file name, a folder (searched in depth) or a glob names, in the byte order of their labels.

    Hidden files and folders (`.name`) are left out. Raises: UserError when nothing is there.
    """
    from pyarrow import fs

    pattern = absolute(pattern)
    root, wanted = _cut_glob(pattern)
    where, inner = filesystem(root)
    try:
        info = where.get_file_info(inner)
        if info.type == fs.FileType.File:
            return [Found(pattern, info.base_name, info.size, info.mtime_ns or 0)]
        require(
            info.type == fs.FileType.Directory,
            f"nothing is at {without_secrets(root)}: give --corpus.path an existing file or folder",
        )
        infos = where.get_file_info(fs.FileSelector(inner, recursive=True))
    except OSError as error:
        raise UserError(f"cannot list {without_secrets(root)}: {first_line(error)}") from error
    found = []
    for info in infos:
        label = info.path[len(inner.rstrip("/")) + 1 :]
        shown = not any(part.startswith(".") for part in label.split("/"))
        if info.type == fs.FileType.File and shown and (wanted is None or _fits(wanted, label.split("/"))):
            found.append(Found(join(root, label), label, info.size, info.mtime_ns or 0))
    require(
        len(found) > 0,
        f"no file is at {without_secrets(pattern)}: give --corpus.path a file, a folder with files, or a glob that "
        "matches some",
    )
    return sorted(found, key=lambda file: file.label.encode("utf-8", "surrogateescape"))


def _cut_glob(pattern: str) -> tuple[str, list[str] | None]:
    """The folder above the first wildcard of a glob and the parts below it; None for them when it is no glob."""
    # In a URI, `?` begins the query: there, a glob is made of `*` and `[…]`.
    base, mark, query = pattern.partition("?") if is_uri(pattern) else (pattern, "", "")
    parts = base.split("/")
    first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), None)
    if first is None or (not is_uri(pattern) and os.path.lexists(pattern)):
        return pattern, None
    return ("/".join(parts[:first]) or "/") + mark + query, parts[first:]


def _fits(pattern: list[str], path: list[str]) -> bool:
    """Whether the parts of a path fit those of a glob: `*` stays within a folder, `**` crosses folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(pattern[1:], path[i:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(pattern[1:], path[1:])
