"""A task of the plan, done: the shards that its parts become, and the receipt that says so."""

import hashlib
import json
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from typing_extensions import TypedDict

from pipeline.corpus.corpus import ShardEntry
from pipeline.corpus.shards import PackedShard, ShardWriter
from pipeline.prepare.inputs import Block, InputPart
from pipeline.prepare.lines import InOrder
from pipeline.prepare.readers import blocks
from pipeline.prepare.tasks import Task
from pipeline.storage.json_file import Count
from pipeline.storage.uri import write_atomic


class _SplitReceipt(TypedDict):
    """What a task wrote to one split."""

    shards: list[ShardEntry]
    histogram: Annotated[list[Count], Len(256, 256)]
    inputs: list[Annotated[list[str | Count], Len(2, 2)]]
    """[input, its bytes in the split]."""


class Receipt(TypedDict):
    """What a finished task wrote."""

    name: str
    number: Count
    size: Count
    splits: dict[str, _SplitReceipt]


def run_task(task: Task) -> dict[str, Any]:
    """Write the shards of a task, then its receipt: what the manifest will say of them."""
    writers = {split: _SplitWriter(task, split) for split in task.to}
    deal_out = InOrder(task).deal if task.cuts else lambda data, starts: deal(data, starts, task)
    for part in task.parts:
        for data, starts in blocks(part, task.reading):
            if task.by_row:
                for split, (some, some_starts) in deal_out(data, starts).items():
                    writers[split].add(part, some, some_starts)
            else:
                writers[task.to[0]].add(part, data, starts)
    entries = {split: writer.finish() for split, writer in writers.items()}
    receipt = {"name": task.name, "number": task.number, "size": task.size, "splits": entries}
    write_atomic(task.folder / task.receipt, json.dumps(receipt).encode())
    return receipt


def run_task_text(text: str) -> dict[str, Any]:
    """A task that came as text."""
    return run_task(Task.from_json(text))


class _SplitWriter:
    """What a task writes to one split."""

    def __init__(self, task: Task, split: str) -> None:
        self._task, self._split = task, split
        # A part of text begins and ends with a whole character, up to 3 bytes before the place where it was cut.
        self._writer = ShardWriter(split, task.shard_bytes + 3)
        self._shards: list[dict[str, Any]] = []
        self._histogram = np.zeros(256, np.int64)
        self._inputs: dict[str, int] = {}

    def add(self, part: InputPart, data: np.ndarray, starts: np.ndarray) -> None:
        if self._task.reading.marked:
            data, starts = with_placeholders(data, starts)
        self._inputs[part.label] = self._inputs.get(part.label, 0) + len(data)
        for packed in self._writer.add(data, starts):
            self._write(packed)

    def finish(self) -> dict[str, Any]:
        """The split's entry in the task's receipt."""
        for packed in self._writer.finish():
            self._write(packed)
        inputs = [[label, size] for label, size in self._inputs.items()]
        return {"shards": self._shards, "histogram": self._histogram.tolist(), "inputs": inputs}

    def _write(self, packed: PackedShard) -> None:
        name = f"{self._split}-{self._task.number:05d}-{len(self._shards):03d}.arrow"
        self._shards.append(packed.write(self._task.folder, name).to_dict())
        self._histogram += packed.histogram


def with_placeholders(data: np.ndarray, starts: np.ndarray) -> Block:
    """The block with a byte before each document: what its marker is read from (see `Split`)."""
    return np.insert(data, starts, 0), starts + np.arange(len(starts))


def deal(data: np.ndarray, starts: np.ndarray, task: Task) -> dict[str, Block]:
    """A block's rows, each in the split that the hash of its bytes and the seed choose: equal rows stay together."""
    edges = [*starts.tolist(), len(data)]
    content, key = data.data, task.seed.to_bytes(8, "little")
    held = [split for split in task.to if split != "train"]
    shares = [
        int.from_bytes(hashlib.blake2b(content[start:stop], digest_size=8, key=key).digest(), "little") / 2**64
        for start, stop in pairwise(edges)
    ]
    number = np.floor(np.array(shares) / task.holdout if task.holdout else np.full(len(shares), np.inf))
    sizes = np.diff(edges)
    dealt = {}
    for split in task.to:
        mine = number == held.index(split) if split in held else number >= len(held)
        own = sizes[mine]
        dealt[split] = (data[np.repeat(mine, sizes)], np.cumsum(own) - own)
    return dealt
