"""Rows in their order, cut at line ends into one stretch for each split: where they are too few, or too unequal, to be
dealt out whole."""

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.prepare.cuts import line_start, reach
from pipeline.prepare.inputs import Block
from pipeline.prepare.tasks import Task


class InOrder:
    """Deals the blocks of a task, in order, to its splits one after the other."""

    def __init__(self, task: Task) -> None:
        self._task, self._split, self._at = task, 0, 0

    def deal(self, data: np.ndarray, starts: np.ndarray) -> dict[str, Block]:
        """What of the block goes to which split."""
        task, begin, dealt = self._task, 0, dict[str, Block]()
        while self._split < len(task.cuts) and task.cuts[self._split] < self._at + len(data):
            cut = max(task.cuts[self._split] - self._at, begin)
            end = line_start(data[cut : cut + task.reach], starts[starts >= cut] - cut) + cut
            dealt[task.to[self._split]] = _between(data, starts, begin, end)
            begin, self._split = end, self._split + 1
        dealt[task.to[self._split]] = _between(data, starts, begin, len(data))
        self._at += len(data)
        return dealt


def dealt_badly(tasks: list[Task], receipts: list[dict[str, Any]]) -> bool:
    """Whether rows that were dealt out by their hash left a split with less than half of its share."""
    task = next((task for task in tasks if task.by_row), None)
    if task is None or not task.holdout:
        return False
    sizes = {split: sum(_sizes(receipts, split)) for split in task.to}
    share = dict.fromkeys(task.to, task.holdout) | {"train": 1 - task.holdout * (len(task.to) - 1)}
    return any(sizes[split] < share[split] * sum(sizes.values()) / 2 for split in task.to)


def in_order(tasks: list[Task], receipts: list[dict[str, Any]]) -> tuple[list[Task], str]:
    """The tasks that take the rows in order instead, under new numbers, and a note that says so."""
    rows = [task for task in tasks if task.by_row]
    mine = sorted((receipt for receipt in receipts if receipt["name"] == "rows"), key=lambda one: one["number"])
    marked = rows[0].reading.marked
    ends = np.cumsum([0, *(sum(_sizes([receipt], marked=marked)) for receipt in mine)]).tolist()
    to, holdout, total = rows[0].to, rows[0].holdout, ends[-1]
    held = len(to) - 1
    cuts = [round(total * (1 - holdout * (held - number))) for number in range(held)]
    again = [
        replace(
            task,
            number=task.number + len(rows),
            cuts=tuple(max(cut - start, 0) for cut in cuts),
            reach=reach(total, holdout),
        )
        for task, start in zip(rows, ends[:-1], strict=True)
    ]
    documents = sum(
        shard["documents"] for receipt in mine for entry in receipt["splits"].values() for shard in entry["shards"]
    )
    shares = ", ".join(f"{100 * holdout:g} % {split}" for split in to[1:])
    note = (
        f"{', '.join(to)} cut at line ends, in the order of the rows: {documents} are too few, or too unequal, to be "
        f"dealt out whole; {shares}"
    )
    return again, note


def _sizes(receipts: list[dict[str, Any]], split: str | None = None, *, marked: bool = False) -> list[int]:
    """The bytes of the shards that rows were written to, of one split or all; `marked`: without the placeholders."""
    return [
        shard["bytes"] - marked * shard["documents"]
        for receipt in receipts
        if receipt["name"] == "rows"
        for name, entry in receipt["splits"].items()
        if split in (None, name)
        for shard in entry["shards"]
    ]


def _between(data: np.ndarray, starts: np.ndarray, begin: int, end: int) -> Block:
    inside = starts[(starts >= begin) & (starts < end)]
    return data[begin:end], inside - begin
