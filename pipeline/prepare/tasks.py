"""The plan of a preparation: tasks that each turn some pieces of the input into shards, in any order, anywhere."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.config import CorpusConfig
from pipeline.prepare.pieces import BY_BYTE, Piece, Reading
from pipeline.prepare.splits import SPLITS, Contents
from pipeline.storage.path import AnyPath, locate, text_of


@dataclass(frozen=True)
class Task:
    """Some pieces, and where their bytes go: shards `{split}-{number}-…` in the folder.

    Either all to the split `to[0]`, or, `by_row`, each row to one of `to`, by a hash of its text: `holdout` is the
    share of each split but train.
    """

    name: str
    number: int
    to: tuple[str, ...]
    by_row: bool
    pieces: tuple[Piece, ...]
    folder: AnyPath
    reading: Reading
    shard_bytes: int
    holdout: float
    seed: int

    @property
    def receipt(self) -> str:
        return f".receipt-{self.name}-{self.number:05d}.json"

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def to_json(self) -> str:
        return json.dumps(
            vars(self)
            | {"folder": text_of(self.folder), "reading": vars(self.reading)}
            | {"pieces": [piece.to_dict() for piece in self.pieces]}
        )

    @classmethod
    def from_json(cls, text: str) -> "Task":
        values = json.loads(text)
        values["to"] = tuple(values["to"])
        values["pieces"] = tuple(Piece.from_dict(piece) for piece in values["pieces"])
        values["folder"] = locate(values["folder"])
        values["reading"] = Reading(**values["reading"])
        return cls(**values)


def plan(contents: Contents, config: CorpusConfig, folder: AnyPath) -> list[Task]:
    """The tasks, each of about `shard_bytes` of input; the order of their numbers is the order of the stream."""
    reading = Reading(config.column, config.separator, config.invalid)

    def task(name: str, number: int, to: tuple[str, ...], pieces: list[Piece]) -> Task:
        by_row = name == "rows"
        return Task(
            name, number, to, by_row, tuple(pieces), folder, reading, config.shard_bytes, config.holdout, config.seed
        )

    tasks = []
    for split in [name for name in SPLITS if name in contents.splits]:
        groups = _groups(contents.splits[split], config.shard_bytes)
        tasks += [task(split, number, (split,), pieces) for number, pieces in enumerate(groups)]
    groups = _groups(contents.rows, config.shard_bytes)
    return tasks + [task("rows", number, contents.rows_to, pieces) for number, pieces in enumerate(groups)]


def _groups(pieces: list[Piece], size: int) -> Iterator[list[Piece]]:
    """Pieces in groups of exactly `size` bytes but for the last; a range of bytes that crosses an edge is cut there,
    whereas a row group or a whole file is not."""
    group: list[Piece] = []
    room = size
    for piece in pieces:
        start = piece.start
        while piece.format in BY_BYTE and piece.stop - start > room:
            yield [*group, replace(piece, start=start, stop=start + room, size=room)] if room else group
            start += room
            group, room = [], size
        left = piece.stop - start if piece.format in BY_BYTE else piece.size
        group.append(replace(piece, start=start, size=left))
        room -= left
        if room <= 0 and piece.format not in BY_BYTE:
            yield group
            group, room = [], size
    if group:
        yield group
