"""A corpus becomes shards and a manifest.

A plan lists the tasks: each takes some parts of the input and writes the shards of their bytes, whoever runs it and
whenever. Order is therefore exact by construction, any task can be done again alone, and Ray Data only spreads them.
A receipt is written behind every finished task, so that an interrupted preparation goes on where it was; the manifest
is written last.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from h2q.errors import UserError, require
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import MANIFEST, read_manifest
from pipeline.corpus.shards import sha256_of
from pipeline.corpus.split import Verify
from pipeline.events import Event, OnEvent
from pipeline.prepare.lines import dealt_badly, in_order
from pipeline.prepare.manifest import describe
from pipeline.prepare.plain import PlainFile, run_unpacking, unpackings
from pipeline.prepare.sources import Source
from pipeline.prepare.splits import Contents
from pipeline.prepare.spread import Work, results
from pipeline.prepare.tasks import Task, plan
from pipeline.prepare.write import Receipt, run_task_text
from pipeline.storage import uri as storage
from pipeline.storage.json_file import read_hint
from pipeline.storage.listing import ListedFile
from pipeline.storage.lock import lock
from pipeline.storage.path import AnyPath
from pipeline.storage.uri import is_uri

_UNPACKED = ".unpacked"


@dataclass(frozen=True)
class Making:
    """A corpus that is to be made in its folder, in this process (`local`) or by Ray Data."""

    source: Source
    config: CorpusConfig
    folder: AnyPath
    fingerprint: str
    local: bool
    on_event: OnEvent

    def make(self) -> None:
        """Make it, unless another process has done so meanwhile. Raises: UserError."""
        contents = self.source.contents(self._plain)
        storage.make_folder(self.folder)
        with _only_one(self.folder):
            if read_manifest(self.folder) is None:
                self._shards(contents)
            if (self.folder / _UNPACKED).exists():
                storage.remove_folder(self.folder / _UNPACKED)

    def _plain(self, files: list[ListedFile]) -> list[list[PlainFile]]:
        """What the files become that are not plain, in a folder for the time being."""
        aside, config = self.folder / _UNPACKED, self.config
        storage.make_folder(self.folder)
        with _only_one(self.folder):
            work = unpackings(files, aside, config.column, config.invalid, config.shard_bytes // 8)
            found = self._run(
                "unpacking", run_unpacking, [piece.to_json() for piece in work], [], sum(piece.size for piece in work)
            )
        ordered = sorted(found, key=lambda result: result["number"])
        return [[PlainFile.from_dict(plain) for plain in of_one] for result in ordered for of_one in result["files"]]

    def _shards(self, contents: Contents) -> None:
        """Write shards, receipts and the manifest, and take away what is left over."""
        tasks = plan(contents, self.config, self.folder)
        receipts = self._receipts(tasks)
        left_over: list[str] = []
        if not self.config.whole and dealt_badly(tasks, receipts):
            again, note = in_order(tasks, receipts)
            rows = [receipt for receipt in receipts if receipt["name"] == "rows"]
            left_over = [shard["name"] for receipt in rows for shard in _shards_of(receipt)]
            left_over += [task.receipt for task in tasks if task.by_row]
            receipts = [receipt for receipt in receipts if receipt["name"] != "rows"] + self._receipts(again)
            contents = replace(contents, notes=(*contents.notes[:-1], note))
        require(
            any(shard["bytes"] for receipt in receipts for shard in _shards_of(receipt)),
            f"the corpus must not be empty, found no text in {self.source.name}: give other files, or --corpus.column",
        )
        manifest = describe(self.source, contents, self.config, self.folder, self.fingerprint, receipts)
        storage.write_atomic(self.folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        # What a preparation that was killed has left, too: nobody else writes here while the folder is locked.
        left_over += [name for name in storage.sizes_in(self.folder) if name.endswith(".tmp")]
        for name in left_over:
            storage.remove(self.folder / name)

    def _receipts(self, tasks: list[Task]) -> list[dict[str, Any]]:
        """Of every task: those that are finished already, and those that are run now."""
        sizes = storage.sizes_in(self.folder)
        known = [(task, _finished(task, sizes, self.config.verify)) for task in tasks]
        done = [receipt for _, receipt in known if receipt]
        if done:
            self.on_event(Event("note", f"continuing in {self.folder}: {len(done)} of {len(tasks)} parts are there"))
        left = [task.to_json() for task, receipt in known if not receipt]
        return self._run(self.source.name, run_task_text, left, done, sum(task.size for task in tasks))

    def _run(
        self, what: str, work: Work, pieces: list[str], done: list[dict[str, Any]], total: int
    ) -> list[dict[str, Any]]:
        """The results of all pieces, with those that were there; tells of bytes as they are done."""
        count = sum(result["size"] for result in done)
        self.on_event(Event("progress", what, count, total))
        everywhere = self.source.everywhere and is_uri(self.config.prepared)
        for result in results(work, pieces, local=self.local, everywhere=everywhere):
            done.append(result)
            count += result["size"]
            self.on_event(Event("progress", what, count, total))
        return done


def _only_one(folder: AnyPath) -> AbstractContextManager[object]:
    """One preparation of a folder at a time on this machine."""
    if not isinstance(folder, Path):
        return nullcontext()
    try:
        return lock(folder / ".lock")
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another --corpus.prepared") from error


def _shards_of(receipt: dict[str, Any]) -> list[dict[str, Any]]:
    return [shard for entry in receipt["splits"].values() for shard in entry["shards"]]


def is_intact(folder: AnyPath, sizes: dict[str, int], shard: dict[str, Any], verify: Verify) -> bool:
    """Whether a shard has the size, and if it is to be verified always the content, that was written."""
    if sizes.get(shard["name"]) != shard["file_bytes"]:
        return False
    return verify == "first" or sha256_of(folder / shard["name"]) == shard["sha256"]


def _finished(task: Task, sizes: dict[str, int], verify: Verify) -> dict[str, Any] | None:
    """The receipt of a task that was finished before and whose shards are still there."""
    if task.receipt not in sizes:
        return None
    receipt = read_hint(task.folder / task.receipt, Receipt, "its part is made again")
    if receipt is None or any(receipt[name] != getattr(task, name) for name in ("name", "number", "size")):
        return None
    return receipt if all(is_intact(task.folder, sizes, shard, verify) for shard in _shards_of(receipt)) else None
