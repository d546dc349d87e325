"""The files that a name, a folder or a glob stands for, on a disk or at a URI."""

import fnmatch
import os
from dataclasses import dataclass

from h2q.errors import UserError, first_line, require
from pipeline.storage.path import AnyPath, locate
from pipeline.storage.uri import absolute, filesystem, is_uri, without_secrets


@dataclass(frozen=True)
class ListedFile:
    """A file of a listing: where it is, its name below the listed folder, its bytes, its time of change (ns)."""

    path: AnyPath
    label: str
    size: int
    mtime_ns: int


def find(pattern: str) -> list[ListedFile]:
    """The files that a file name, a folder (searched in depth) or a glob names, in the byte order of their labels.

    Hidden files and folders (`.name`) are left out. Raises: UserError when nothing is there.
    """
    from pyarrow import fs

    pattern = absolute(pattern)
    root, wanted = _cut_glob(pattern)
    top = locate(root)
    where, inner = filesystem(top)
    try:
        info = where.get_file_info(inner)
        if info.type == fs.FileType.File:
            return [ListedFile(top, info.base_name, info.size, info.mtime_ns or 0)]
        require(
            info.type == fs.FileType.Directory,
            f"nothing is at {without_secrets(root)}: give --corpus.path an existing file or folder",
        )
        infos = where.get_file_info(fs.FileSelector(inner, recursive=True))
    except OSError as error:
        raise UserError(f"cannot list {without_secrets(root)}: {first_line(error)}") from error
    files = []
    for info in infos:
        label = info.path[len(inner.rstrip("/")) + 1 :]
        shown = not any(part.startswith(".") for part in label.split("/"))
        if info.type == fs.FileType.File and shown and (wanted is None or _fits(wanted, label.split("/"))):
            files.append(ListedFile(top / label, label, info.size, info.mtime_ns or 0))
    require(
        len(files) > 0,
        f"no file is at {without_secrets(pattern)}: give --corpus.path a file, a folder with files, or a glob that "
        "matches some",
    )
    return sorted(files, key=lambda file: file.label.encode("utf-8", "surrogateescape"))


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
