"""What holds text without being plain becomes plain files first: compressed files, archives, UTF-16, JSON arrays.

The plain files lie in a folder aside until the shards are made. All is read and written a block at a time: what a file
grows to takes room on the disk, never in memory.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from h2q.errors import UserError, first_line
from pipeline.prepare.arrays import array_lines, is_array, is_lines
from pipeline.prepare.encodings import as_utf8, blocks_of, encoding_of
from pipeline.prepare.inputs import Invalid
from pipeline.prepare.packing import BROKEN, Leaf, Stream, leaves, packing_of
from pipeline.shown import printable
from pipeline.storage import uri as storage
from pipeline.storage.json_file import Count, object_of, read_hint
from pipeline.storage.listing import ListedFile
from pipeline.storage.path import AnyPath, UriPath, locate, text_of

_DONE = "files.json"
_RESULT = object_of(number=Count, size=Count, files=list[list[dict[str, Any]]])


@dataclass(frozen=True)
class PlainFile:
    """A file of plain text, or a table, that was made of another: as it is listed, and what was done to it."""

    file: ListedFile
    how: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return vars(self.file) | {"path": text_of(self.file.path), "how": self.how}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PlainFile":
        listed = {name: value for name, value in values.items() if name != "how"}
        return cls(ListedFile(**{**listed, "path": locate(values["path"])}), tuple(values["how"]))


MakePlain = Callable[[list[ListedFile]], list[list[PlainFile]]]
"""For each of some files, the plain files that it becomes."""


def not_plain(files: list[ListedFile], invalid: Invalid) -> list[ListedFile]:
    """Those that have to be made plain, by their first bytes."""

    def is_plain(file: ListedFile) -> bool:
        head = storage.head(file.path, _head_size(file.label))
        if packing_of(head) is not None:
            return False
        return _is_binary(file.label) or _shape(head, file.label, invalid) == (None, None)

    if not files or not isinstance(files[0].path, UriPath):
        return [file for file in files if not is_plain(file)]
    # Where files are far away, the time goes by waiting.
    with ThreadPoolExecutor(16) as pool:
        return [file for file, plain in zip(files, pool.map(is_plain, files), strict=True) if not plain]


@dataclass(frozen=True)
class Unpacking:
    """Some files, by path and label, to be made plain in a folder; `number` tells it from others."""

    number: int
    files: tuple[tuple[str, str], ...]
    size: int
    """Bytes of the files."""
    folder: str
    column: str
    invalid: Invalid

    def to_json(self) -> str:
        return json.dumps(vars(self))

    def run(self) -> dict[str, Any]:
        """`files`: for each file those that it became. They are made unless they are there already."""
        folder = locate(self.folder) / f"{self.number:05d}"
        if (result := read_hint(folder / _DONE, _RESULT, "its files are unpacked again")) is not None:
            return result
        storage.remove_folder(folder)
        try:
            made = [self._plain(locate(path), label, folder / str(i)) for i, (path, label) in enumerate(self.files)]
            files = [[plain.to_dict() for plain in of_one] for of_one in made]
            result = {"number": self.number, "size": self.size, "files": files}
            storage.write_atomic(folder / _DONE, json.dumps(result).encode())
        except BaseException:
            storage.remove_folder(folder)
            raise
        return result

    def _plain(self, path: AnyPath, label: str, folder: AnyPath) -> list[PlainFile]:
        storage.make_folder(folder)
        try:
            with storage.opened(path) as file:
                found = leaves(Stream(file.read, file), label)
                return [self._write(leaf, path, folder, number) for number, leaf in enumerate(found)]
        except UserError:
            raise
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not the {error.encoding.upper()} that it begins as: {error.reason}; mend or remove the "
                "file, or give --corpus.invalid replace (U+FFFD)"
            ) from None
        except BROKEN as error:
            raise UserError(f"{path} cannot be unpacked: {first_line(error)}; mend or remove the file") from None

    def _write(self, leaf: Leaf, path: AnyPath, folder: AnyPath, number: int) -> PlainFile:
        """Write a file that is packed no more, as plain text or a table."""
        label, stream = printable(leaf.label), leaf.stream
        head = b"" if _is_binary(label) else stream.head(_head_size(label))
        encoding, table = _shape(head, label, self.invalid)
        blocks = as_utf8(stream, encoding, self.invalid) if encoding else blocks_of(stream)
        if table == "JSON array":
            blocks = array_lines(blocks, self.column, self.invalid)
        target = folder / f"{number:05d}{'.jsonl' if table else PurePosixPath(label.lower()).suffix}"
        size = storage.write_blocks(target, blocks)
        origin = printable(f"{path}, {leaf.inside}" if leaf.inside else str(path))
        how = (*leaf.how, *(str(what) for what in (encoding, table) if what))
        return PlainFile(ListedFile(target, label, size, 0, origin), how)


def unpackings(files: list[ListedFile], folder: AnyPath, column: str, invalid: Invalid, size: int) -> list[Unpacking]:
    """The work, in portions of about `size` bytes."""
    groups: list[list[ListedFile]] = []
    room = 0
    for file in files:
        if room <= 0:
            groups, room = [*groups, []], size
        groups[-1].append(file)
        room -= file.size
    return [
        Unpacking(
            number,
            tuple((text_of(file.path), file.label) for file in group),
            sum(file.size for file in group),
            text_of(folder),
            column,
            invalid,
        )
        for number, group in enumerate(groups)
    ]


def run_unpacking(text: str) -> dict[str, Any]:
    """An unpacking that came as text."""
    values = json.loads(text)
    return Unpacking(**{**values, "files": tuple(tuple(file) for file in values["files"])}).run()


def _head_size(name: str) -> int:
    """Bytes by which a file is known: of a JSON file enough for a first line."""
    return 1 << 20 if name.lower().endswith(".json") else 1 << 12


def _is_binary(name: str) -> bool:
    return name.lower().endswith((".parquet", ".arrow"))


def _shape(head: bytes, name: str, invalid: Invalid) -> tuple[Any, str | None]:
    """The encoding, where it has to be changed, and the kind of table that a .json file holds."""
    encoding = None if invalid == "keep" else encoding_of(head)
    if not name.lower().endswith(".json"):
        return encoding, None
    text = head[encoding.mark :].decode(encoding.codec, "ignore").encode() if encoding else head
    return encoding, "JSON array" if is_array(text) else "JSON lines" if is_lines(text) else None
