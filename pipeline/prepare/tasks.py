"""The plan of a preparation: tasks that each turn some parts of the input into shards, in any order, anywhere."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import SPLITS
from pipeline.prepare.inputs import BY_BYTE, InputPart, Reading
from pipeline.prepare.splits import Contents
from pipeline.storage.path import AnyPath, locate, text_of


@dataclass(frozen=True)
class Task:
    """Some parts, and where their bytes go: shards `{split}-{number}-…` in the folder.

    Either all to the split `to[0]`, or, `by_row`, each row to one of `to`, by a hash of its text: `holdout` is the
    share of each split but train.
    """

    name: str
    number: int
    to: tuple[str, ...]
    by_row: bool
    parts: tuple[InputPart, ...]
    folder: AnyPath
    reading: Reading
    shard_bytes: int
    holdout: float
    seed: int
    cuts: tuple[int, ...] = ()
    """Where the rows are dealt in order instead: the place in the task's text at which each split but the first of `to`
    begins, or the next line or row behind it."""
    reach: int = 0
    """Bytes behind a cut in which there has to be a line end; otherwise it is made at a character."""

    @property
    def receipt(self) -> str:
        return f".receipt-{self.name}-{self.number:05d}.json"

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def to_json(self) -> str:
        return json.dumps(
            vars(self)
            | {"folder": text_of(self.folder), "reading": vars(self.reading)}
            | {"parts": [part.to_dict() for part in self.parts]}
        )

    @classmethod
    def from_json(cls, text: str) -> "Task":
        values = json.loads(text)
        values |= {"to": tuple(values["to"]), "cuts": tuple(values["cuts"])}
        values["parts"] = tuple(InputPart.from_dict(part) for part in values["parts"])
        values["folder"] = locate(values["folder"])
        values["reading"] = Reading(**values["reading"])
        return cls(**values)


def plan(contents: Contents, config: CorpusConfig, folder: AnyPath) -> list[Task]:
    """The tasks, each of about `shard_bytes` of input; the order of their numbers is the order of the stream."""
    reading = Reading(config.named_column, config.row_end, config.invalid, config.marked, config.samples)

    def task(name: str, number: int, to: tuple[str, ...], parts: list[InputPart]) -> Task:
        by_row = name == "rows"
        return Task(
            name, number, to, by_row, tuple(parts), folder, reading, config.shard_bytes, config.holdout, config.seed
        )

    tasks = []
    for split in [name for name in SPLITS if name in contents.splits]:
        groups = _groups(contents.splits[split], config.shard_bytes)
        tasks += [task(split, number, (split,), parts) for number, parts in enumerate(groups)]
    groups = _groups(contents.rows, config.shard_bytes)
    return tasks + [task("rows", number, contents.rows_to, parts) for number, parts in enumerate(groups)]


def _groups(parts: list[InputPart], size: int) -> Iterator[list[InputPart]]:
    """Parts in groups of exactly `size` bytes but for the last; a range of bytes that crosses an edge is cut there,
    whereas a row group or a whole file is not."""
    group: list[InputPart] = []
    room = size
    for part in parts:
        start = part.start
        while part.format in BY_BYTE and part.stop - start > room:
            yield [*group, replace(part, start=start, stop=start + room, size=room)] if room else group
            start += room
            group, room = [], size
        left = part.stop - start if part.format in BY_BYTE else part.size
        group.append(replace(part, start=start, size=left))
        room -= left
        if room <= 0 and part.format not in BY_BYTE:
            yield group
            group, room = [], size
    if group:
        yield group
