"""The files that a name, a folder or a glob stands for, on a disk or at a URI."""

import fnmatch
import heapq
import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from h2q.errors import UserError, first_line, require
from pipeline.shown import printable, without_secrets
from pipeline.storage.path import AnyPath, UriPath, locate
from pipeline.storage.uri import absolute, filesystem, is_uri


@dataclass(frozen=True)
class ListedFile:
    """A file of a listing: where it is, its name below the listed folder, its bytes, its time of change (ns).

    `label` can be printed, whatever the bytes of the name.
    """

    path: AnyPath
    label: str
    size: int
    mtime_ns: int
    origin: str = ""
    """What people know it by, where that is not its path: the archive that it lay in."""


def find(pattern: str, again: list[str] | None = None) -> list[ListedFile]:
    """The files that a file name, a folder (searched in depth) or a glob names, in the byte order of their labels.

    Hidden files and folders (`.name`) are left out. Links are followed, and what several names lead to is listed once:
    `again` collects the other names. Raises: UserError when nothing is there.
    """
    files = list(_fitting(pattern, [] if again is None else again))
    require(len(files) > 0, _no_file(pattern))
    return sorted(files, key=lambda file: file.label.encode())


def check_any(pattern: str) -> None:
    """Look no further than for one file that `find` would list. Raises: UserError when nothing is there."""
    require(next(_fitting(pattern, []), None) is not None, _no_file(pattern))


def _fitting(pattern: str, again: list[str]) -> Iterator[ListedFile]:
    root, wanted = _cut_glob(absolute(pattern))
    top = locate(root)
    try:
        for file in _at_uri(top) if isinstance(top, UriPath) else _on_disk(top, again):
            if wanted is None or _fits(wanted, file.label.split("/")):
                yield file
    except OSError as error:
        raise UserError(f"cannot list {printable(without_secrets(root))}: {first_line(error)}") from error


def _no_file(pattern: str) -> str:
    return (
        f"no file is at {printable(without_secrets(absolute(pattern)))}: give --corpus.path a file, a folder with "
        "files, or a glob that matches some"
    )


def _on_disk(top: Path, again: list[str]) -> Iterator[ListedFile]:
    """A file, or every file below a folder once: under its own name, or if only links lead to it, the first of them."""
    if top.is_file():
        yield _listed(top.parent, str(top), top.stat())
        return
    require(top.is_dir(), _nothing(top))
    seen: set[Hashable] = set()
    # A folder as it was reached, and its real path. Links wait until all that is no link has been listed.
    folders, links = [(str(top), os.path.realpath(top))], list[str]()
    while folders or links:
        if not folders:
            path = heapq.heappop(links)
            real = os.path.realpath(path)
            if os.path.isdir(real):
                folders.append((path, real))
            elif os.path.isfile(real):
                yield from _once(top, path, real, seen, again)
            continue
        path, real = folders.pop()
        if real in seen:
            again.append(_label(top, path))
            continue
        seen.add(real)
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    heapq.heappush(links, entry.path)
                elif entry.is_dir():
                    folders.append((entry.path, f"{real}/{entry.name}"))
                elif entry.is_file():
                    yield from _once(top, entry.path, f"{real}/{entry.name}", seen, again)


def _once(top: Path, path: str, real: str, seen: set[Hashable], again: list[str]) -> Iterator[ListedFile]:
    """The file, unless its real path or, if it has several names, its inode was seen before."""
    stat = os.stat(path)
    names: set[Hashable] = {real}
    if stat.st_nlink > 1 and stat.st_ino:
        names.add((stat.st_dev, stat.st_ino))
    if seen.isdisjoint(names):
        yield _listed(top, path, stat)
    else:
        again.append(_label(top, path))
    seen |= names


def _listed(top: Path, path: str, stat: os.stat_result) -> ListedFile:
    return ListedFile(Path(path), _label(top, path), stat.st_size, stat.st_mtime_ns)


def _label(top: Path, path: str) -> str:
    return printable(path[len(str(top).rstrip("/")) + 1 :])


def _at_uri(top: UriPath) -> Iterator[ListedFile]:
    from pyarrow import fs

    where, inner = filesystem(top)
    info = where.get_file_info(inner)
    if info.type == fs.FileType.File:
        yield ListedFile(top, info.base_name, info.size, info.mtime_ns or 0)
        return
    require(info.type == fs.FileType.Directory, _nothing(top))
    for info in where.get_file_info(fs.FileSelector(inner, recursive=True)):
        label = info.path[len(inner.rstrip("/")) + 1 :]
        if info.type == fs.FileType.File and not any(part.startswith(".") for part in label.split("/")):
            yield ListedFile(top / label, label, info.size, info.mtime_ns or 0)


def _nothing(top: AnyPath) -> str:
    return f"nothing is at {printable(str(top))}: give --corpus.path an existing file or folder"


def _cut_glob(pattern: str) -> tuple[str, list[str] | None]:
    """The folder above the first wildcard of a glob and the parts below it; None for them when it is no glob.

    On a disk no name that is there is taken for wildcards: `[2024] books` is one.
    """
    # In a URI, `?` begins the query: there, a glob is made of `*` and `[…]`.
    base, mark, query = pattern.partition("?") if is_uri(pattern) else (pattern, "", "")
    parts = base.split("/")
    wild = (i for i, part in enumerate(parts) if set(part) & set("*?["))
    first = next((i for i in wild if is_uri(pattern) or not os.path.lexists("/".join(parts[: i + 1]))), None)
    if first is None:
        return pattern, None
    return ("/".join(parts[:first]) or "/") + mark + query, parts[first:]


def _fits(pattern: list[str], path: list[str]) -> bool:
    """Whether the parts of a path fit those of a glob: `*` stays within a folder, `**` crosses folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(pattern[1:], path[i:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(pattern[1:], path[1:])
