"""Ray Data: a corpus becomes shards and a manifest.

A plan lists the tasks: each takes some pieces of the input and writes the shards of their bytes, whoever runs it and
whenever. Order is therefore exact by construction, any task can be done again alone, and Ray Data only spreads them.
A receipt is written behind every finished task, so that an interrupted preparation goes on where it was; the manifest
is written last.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import lzma
import math
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from h2q.config import UserError
from pipeline import corpus as sources
from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus import SPLITS, Contents, Source
from pipeline.manifest import MANIFEST, VERSION, Corpus, Split, open_corpus, read_manifest, remember_verified
from pipeline.readers import Piece, Reading, blocks
from pipeline.shards import Shard, ShardWriter

__all__ = ["Corpus", "Event", "Split", "open_corpus", "prepare"]

SAMPLE = 2 << 20
"""Bytes of each split that are compressed for comparison."""


@dataclass(frozen=True)
class Event:
    """What preparation tells its caller: a `note` is a sentence in `text`; `progress` counts bytes of input."""

    kind: Literal["note", "progress"]
    text: str = ""
    done: int = 0
    total: int = 0


OnEvent = Callable[[Event], None]


def _silent(event: Event) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Task:
    """Some pieces, and where their bytes go: shards `{split}-{number}-…` in the folder."""

    number: int
    split: str
    pieces: tuple[Piece, ...]
    folder: str
    reading: Reading
    shard_bytes: int

    @property
    def receipt(self) -> str:
        return f".receipt-{self.split}-{self.number:05d}.json"

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def to_json(self) -> str:
        return json.dumps(
            vars(self) | {"pieces": [piece.to_dict() for piece in self.pieces], "reading": vars(self.reading)}
        )

    @classmethod
    def from_json(cls, text: str) -> "Task":
        told = json.loads(text)
        pieces = tuple(Piece(**piece) for piece in told["pieces"])
        return cls(**(told | {"pieces": pieces, "reading": Reading(**told["reading"])}))


def prepare(config: CorpusConfig, *, local: bool = False, on_event: OnEvent = _silent) -> Corpus:
    """The prepared corpus: reused where a matching manifest is found, otherwise made, in this process (`local`) or by
    Ray Data on the Ray that is already initialised.

    Raises: UserError when the corpus is missing, empty or invalid, or the folder cannot be written.
    """
    return _prepared(_source(config), config, local, on_event)


def _source(config: CorpusConfig) -> Source:
    if config.source == "path" or (config.source == "auto" and config.path is not None):
        return sources.files(config)
    return sources.reference_manual(config)


def _prepared(source: Source, config: CorpusConfig, local: bool, on_event: OnEvent) -> Corpus:
    fingerprint = _fingerprint(source, config)
    folder = storage.join(storage.absolute(config.prepared), f"{source.slug}-{fingerprint[:12]}")
    if read_manifest(folder) is None:
        storage.make_folder(folder)
        with _only_one(folder):
            if read_manifest(folder) is None:
                _make(source, config, folder, fingerprint, local, on_event)
    else:
        on_event(Event("note", f"{source.name}: already prepared in {folder}"))
    return open_corpus(folder, verify=config.verify)


def _fingerprint(source: Source, config: CorpusConfig) -> str:
    """Digest of everything that decides the prepared bytes."""
    told = {"version": VERSION, "source": source.identity, "options": _options(config)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _options(config: CorpusConfig) -> dict[str, Any]:
    names = ("kind", "column", "separator", "invalid", "holdout", "seed", "shard_bytes")
    return {name: getattr(config, name) for name in names}


@contextlib.contextmanager
def _only_one(folder: str) -> Iterator[None]:
    """One preparation of a folder at a time on this machine; the lock goes with the process that held it."""
    local = storage.local_path(folder)
    if local is None:
        yield
        return
    try:
        file = open(os.path.join(local, ".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write in {local}: {error.strerror}; choose another --corpus.prepared") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(source: Source, config: CorpusConfig, folder: str, fingerprint: str, local: bool, on_event: OnEvent) -> None:
    contents = source.contents()
    tasks = plan(contents, config, folder)
    receipts = [receipt for task in tasks if (receipt := _finished(task)) is not None]
    done = {(receipt["split"], receipt["number"]) for receipt in receipts}
    left = [task for task in tasks if (task.split, task.number) not in done]
    total = sum(task.size for task in tasks)
    if receipts:
        on_event(Event("note", f"continuing in {folder}: {len(receipts)} of {len(tasks)} parts are there"))
    count = total - sum(task.size for task in left)
    on_event(Event("progress", source.name, count, total))
    for receipt in _loop(left) if local else _ray(left, config):
        receipts.append(receipt)
        count += receipt["size"]
        on_event(Event("progress", source.name, count, total))
    manifest = _manifest(source, contents, config, folder, fingerprint, receipts)
    storage.write_atomic(storage.join(folder, MANIFEST), json.dumps(manifest, indent=1).encode())


def plan(contents: Contents, config: CorpusConfig, folder: str) -> list[Task]:
    """The tasks, each of about `shard_bytes` of input; the order of their numbers is the order of the stream."""
    reading = Reading(config.column, config.separator, config.invalid)
    tasks = []
    for split in [name for name in SPLITS if name in contents.splits]:
        for number, pieces in enumerate(_groups(contents.splits[split], config.shard_bytes)):
            tasks.append(Task(number, split, tuple(pieces), folder, reading, config.shard_bytes))
    return tasks


def _groups(pieces: list[Piece], size: int) -> Iterator[list[Piece]]:
    """Pieces in groups of exactly `size` bytes but for the last; a piece that crosses an edge is cut there."""
    group, room = [], size
    for piece in pieces:
        start = piece.start
        while piece.stop - start > room:
            group.append(replace(piece, start=start, stop=start + room, size=room))
            start += room
            yield group
            group, room = [], size
        group.append(replace(piece, start=start, size=piece.stop - start))
        room -= piece.stop - start
    if group:
        yield group


def run_task(task: Task) -> dict[str, Any]:
    """Write the shards of a task, then its receipt: what the manifest will say of them."""
    writer = ShardWriter(task.split, task.shard_bytes)
    counts = np.zeros(256, np.int64)
    written: list[dict[str, Any]] = []

    def write(packed: Any) -> None:
        name = f"{task.split}-{task.number:05d}-{len(written):03d}.arrow"
        written.append(packed.write(task.folder, name).to_dict())
        counts[:] += packed.histogram

    inputs = []
    for piece in task.pieces:
        size = 0
        for data, starts in blocks(piece, task.reading):
            size += len(data)
            for packed in writer.add(data, starts):
                write(packed)
        inputs.append([piece.label, size])
    for packed in writer.finish():
        write(packed)
    receipt = {"split": task.split, "number": task.number, "size": task.size, "inputs": inputs}
    receipt |= {"shards": written, "histogram": counts.tolist()}
    storage.write_atomic(storage.join(task.folder, task.receipt), json.dumps(receipt).encode())
    return receipt


def _finished(task: Task) -> dict[str, Any] | None:
    """The receipt of a task that was finished before and whose shards are still there."""
    try:
        receipt = json.loads(storage.read(storage.join(task.folder, task.receipt)))
    except (FileNotFoundError, ValueError):
        return None
    sizes = [storage.size_of(storage.join(task.folder, shard["name"])) for shard in receipt["shards"]]
    return receipt if sizes == [shard["file_bytes"] for shard in receipt["shards"]] else None


def _loop(tasks: list[Task]) -> Iterator[dict[str, Any]]:
    return map(run_task, tasks)


def _ray(tasks: list[Task], config: CorpusConfig) -> Iterator[dict[str, Any]]:
    """The receipts of the tasks, as Ray Data finishes them."""
    if not tasks:
        return
    import ray

    quiet_ray_data()
    rows = [{"task": task.to_json()} for task in tasks]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_run_row, num_cpus=1)
    for row in data.iter_rows():
        told = json.loads(row["receipt"])
        if "error" in told:
            raise UserError(told["error"])
        yield told


def _run_row(row: dict[str, Any]) -> dict[str, Any]:
    """A task on a worker. A user's mistake travels as a value: Ray would wrap the exception in pages of its own."""
    try:
        return {"receipt": json.dumps(run_task(Task.from_json(row["task"])))}
    except UserError as error:
        return {"receipt": json.dumps({"error": str(error)})}


def quiet_ray_data() -> None:
    """Keep Ray Data from drawing its own progress bars and from telling its plans."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _manifest(
    source: Source,
    contents: Contents,
    config: CorpusConfig,
    folder: str,
    fingerprint: str,
    receipts: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the folder contains, from the receipts and one reading of the streams."""
    receipts = sorted(receipts, key=lambda receipt: receipt["number"])
    splits = {}
    for name in SPLITS:
        of_split = [receipt for receipt in receipts if receipt["split"] == name]
        splits[name] = _split_entry(name, of_split, folder)
    identity = [[name, split["bytes"], split["sha256"]] for name, split in splits.items()]
    return {
        "format": "h2q-corpus",
        "version": VERSION,
        "name": source.name,
        "licence": source.licence,
        "order": source.order,
        "source": source.identity,
        "options": _options(config),
        "fingerprint": fingerprint,
        "command": command(config),
        "notes": list(contents.notes),
        "bytes": sum(split["bytes"] for split in splits.values()),
        "documents": sum(split["documents"] for split in splits.values()),
        "sha256": hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        "splits": splits,
    }


def _split_entry(name: str, receipts: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    listed = [Shard(**shard) for receipt in receipts for shard in receipt["shards"]]
    counts = (
        np.sum([receipt["histogram"] for receipt in receipts], axis=0, dtype=np.int64) if receipts else np.zeros(256)
    )
    entry: dict[str, Any] = {
        "bytes": sum(shard.bytes for shard in listed),
        "documents": sum(shard.documents for shard in listed),
        "sha256": "",
        "order0_bpb": entropy(counts),
        "gzip_bpb": None,
        "xz_bpb": None,
        "sample_bytes": 0,
        "histogram": [int(count) for count in counts],
        "inputs": _joined([tuple(entry) for receipt in receipts for entry in receipt["inputs"]]),
        "shards": [shard.to_dict() for shard in listed],
    }
    local = storage.local_path(folder)
    if local is not None:
        remember_verified([os.path.join(local, shard.name) for shard in listed])
    split = Split(folder, name, entry, "")
    digest = hashlib.sha256()
    for start in range(0, len(split), 1 << 26):
        digest.update(split.read(start, min(start + (1 << 26), len(split))))
    entry["sha256"] = digest.hexdigest()
    sample = split.read(0, min(len(split), SAMPLE)).tobytes()
    if sample:
        with ThreadPoolExecutor(2) as pool:
            gz, xz = pool.map(lambda compress: compress(sample), (_gzip, _xz))
        entry |= {"sample_bytes": len(sample), "gzip_bpb": 8 * gz / len(sample), "xz_bpb": 8 * xz / len(sample)}
    return entry


def _joined(inputs: list[tuple[str, int]]) -> list[list[Any]]:
    """[input, its bytes in the split] in order; an input that several tasks read is listed once."""
    joined: list[list[Any]] = []
    for label, size in inputs:
        if joined and joined[-1][0] == label:
            joined[-1][1] += size
        else:
            joined.append([label, size])
    return joined


def entropy(counts: np.ndarray) -> float | None:
    """Order-0 entropy of a byte histogram, bits per byte; None for no bytes."""
    total = int(np.sum(counts))
    shares = [int(count) / total for count in counts if count] if total else []
    return -math.fsum(share * math.log2(share) for share in shares) + 0.0 if shares else None


def _gzip(data: bytes) -> int:
    return len(zlib.compress(data, 9, wbits=31))


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def command(config: CorpusConfig) -> str:
    """The command line that prepares this corpus again, checking every shard and rebuilding what does not match."""
    import shlex

    default = CorpusConfig()
    given = {name: value for name, value in config.to_dict().items() if value != getattr(default, name)} | {
        "verify": "always"
    }
    options = " ".join(f"--corpus.{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in given.items())
    return f"python jobs/prepare.py {options}"
