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
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from h2q.config import UserError, require
from pipeline import corpus as sources
from pipeline import storage
from pipeline.cache import Cache
from pipeline.config import CorpusConfig
from pipeline.corpus import SPLITS, Contents, Source
from pipeline.hub import WIKITEXT, HubUnreachable
from pipeline.manifest import MANIFEST, VERSION, Corpus, Split, Verify, open_corpus, read_manifest
from pipeline.pieces import BY_BYTE, Block, Piece, Reading
from pipeline.readers import blocks
from pipeline.shards import Packed, Shard, ShardWriter, sha256_of
from pipeline.verified import remember_verified

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
    """Some pieces, and where their bytes go: shards `{split}-{number}-…` in the folder.

    Either all to the split `to[0]`, or, `by_row`, each row to one of `to`, by a hash of its text: `holdout` is the
    share of each split but train.
    """

    name: str
    number: int
    to: tuple[str, ...]
    by_row: bool
    pieces: tuple[Piece, ...]
    folder: str
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
            vars(self) | {"pieces": [piece.to_dict() for piece in self.pieces], "reading": vars(self.reading)}
        )

    @classmethod
    def from_json(cls, text: str) -> "Task":
        told = json.loads(text)
        pieces = tuple(Piece(**piece) for piece in told["pieces"])
        return cls(**(told | {"to": tuple(told["to"]), "pieces": pieces, "reading": Reading(**told["reading"])}))


def prepare(config: CorpusConfig, *, local: bool = False, on_event: OnEvent = _silent) -> Corpus:
    """The prepared corpus: reused where a matching manifest is found, otherwise made, in this process (`local`) or by
    Ray Data on the Ray that is already initialised.

    Raises: UserError when the corpus is missing, empty or invalid, or the folder cannot be written.
    """
    if config.source == "path" or (config.source == "auto" and config.path is not None):
        return _prepared(sources.files(config), config, local, on_event)
    if config.source == "hub" or (config.source == "auto" and config.hub is not None):
        assert config.hub is not None
        return _prepared(sources.hub_data_set(config, config.hub), config, local, on_event)
    if config.source == "manual":
        return _prepared(sources.reference_manual(config), config, local, on_event)
    try:
        return _prepared(sources.hub_data_set(config, WIKITEXT), config, local, on_event)
    except HubUnreachable as error:
        if config.source == "wikitext":
            raise
        source = sources.reference_manual(config)
        note = f"{error.what}: using the {source.name}"
    on_event(Event("note", note))
    corpus = _prepared(source, config, local, on_event)
    return replace(corpus, notes=(note, *corpus.notes))


def _prepared(source: Source, config: CorpusConfig, local: bool, on_event: OnEvent) -> Corpus:
    fingerprint = _fingerprint(source, config)
    folder = storage.join(storage.absolute(config.prepared), f"{source.slug}-{fingerprint[:12]}")
    if _matches(folder, config, on_event):
        on_event(Event("note", f"{source.name}: already prepared in {folder}"))
    else:
        contents = source.contents()
        storage.make_folder(folder)
        with _only_one(folder):
            if read_manifest(folder) is None:
                _make(source, contents, config, folder, fingerprint, local, on_event)
    return open_corpus(folder, config)


def _matches(folder: str, config: CorpusConfig, on_event: OnEvent) -> bool:
    """Whether the folder is finished with its shards as the manifest says; if not, it is finished no more."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    listed = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    sizes = storage.sizes_in(folder)
    wrong = [shard["name"] for shard in listed if not _intact(folder, sizes, shard, config.verify)]
    if wrong:
        on_event(Event("note", f"{len(wrong)} of {len(listed)} shards are missing or altered: making them again"))
        storage.remove(storage.join(folder, MANIFEST))
    return not wrong


def _intact(folder: str, sizes: dict[str, int], shard: dict[str, Any], verify: Verify) -> bool:
    """Whether a shard has the size, and if it is to be verified always the content, that was written."""
    if sizes.get(shard["name"]) != shard["file_bytes"]:
        return False
    return verify == "first" or sha256_of(storage.join(folder, shard["name"])) == shard["sha256"]


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


def _make(
    source: Source,
    contents: Contents,
    config: CorpusConfig,
    folder: str,
    fingerprint: str,
    local: bool,
    on_event: OnEvent,
) -> None:
    tasks = plan(contents, config, folder)
    sizes = storage.sizes_in(folder)
    receipts, left = [], []
    for task in tasks:
        receipt = _finished(task, sizes, config.verify)
        receipts += [receipt] if receipt else []
        left += [] if receipt else [task]
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
    for name in sizes:
        if name.endswith(".tmp"):
            # Left by a preparation that was killed: nobody else writes here while the folder is locked.
            storage.remove(storage.join(folder, name))


def plan(contents: Contents, config: CorpusConfig, folder: str) -> list[Task]:
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


def run_task(task: Task) -> dict[str, Any]:
    """Write the shards of a task, then its receipt: what the manifest will say of them."""
    parts = {split: _Part(task, split) for split in task.to}
    for piece in task.pieces:
        for data, starts in blocks(piece, task.reading):
            if task.by_row:
                for split, (some, some_starts) in deal(data, starts, task).items():
                    parts[split].add(piece, some, some_starts)
            else:
                parts[task.to[0]].add(piece, data, starts)
    told = {split: part.finish() for split, part in parts.items()}
    receipt = {"name": task.name, "number": task.number, "size": task.size, "splits": told}
    storage.write_atomic(storage.join(task.folder, task.receipt), json.dumps(receipt).encode())
    return receipt


class _Part:
    """What a task writes to one split."""

    def __init__(self, task: Task, split: str) -> None:
        self._task, self._split = task, split
        # A piece of text begins and ends with a whole character, up to 3 bytes before the place where it was cut.
        self._writer = ShardWriter(split, task.shard_bytes + 3)
        self._shards: list[dict[str, Any]] = []
        self._histogram = np.zeros(256, np.int64)
        self._inputs: dict[str, int] = {}

    def add(self, piece: Piece, data: np.ndarray, starts: np.ndarray) -> None:
        self._inputs[piece.label] = self._inputs.get(piece.label, 0) + len(data)
        for packed in self._writer.add(data, starts):
            self._write(packed)

    def finish(self) -> dict[str, Any]:
        """The split's entry in the task's receipt."""
        for packed in self._writer.finish():
            self._write(packed)
        inputs = [[label, size] for label, size in self._inputs.items()]
        return {"shards": self._shards, "histogram": self._histogram.tolist(), "inputs": inputs}

    def _write(self, packed: Packed) -> None:
        name = f"{self._split}-{self._task.number:05d}-{len(self._shards):03d}.arrow"
        self._shards.append(packed.write(self._task.folder, name).to_dict())
        self._histogram += packed.histogram


def deal(data: np.ndarray, starts: np.ndarray, task: Task) -> dict[str, Block]:
    """A block's rows, each in the split that the hash of its bytes and the seed choose: equal rows stay together."""
    edges = [*starts.tolist(), len(data)]
    view, key = data.data, task.seed.to_bytes(8, "little")
    held = [split for split in task.to if split != "train"]
    shares = [
        int.from_bytes(hashlib.blake2b(view[start:stop], digest_size=8, key=key).digest(), "little") / 2**64
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


def _finished(task: Task, sizes: dict[str, int], verify: Verify) -> dict[str, Any] | None:
    """The receipt of a task that was finished before and whose shards are still there."""
    if task.receipt not in sizes:
        return None
    try:
        receipt = json.loads(storage.read(storage.join(task.folder, task.receipt)))
    except ValueError:
        return None
    listed = [shard for told in receipt["splits"].values() for shard in told["shards"]]
    return receipt if all(_intact(task.folder, sizes, shard, verify) for shard in listed) else None


def _loop(tasks: list[Task]) -> Iterator[dict[str, Any]]:
    return map(run_task, tasks)


def _ray(tasks: list[Task], config: CorpusConfig) -> Iterator[dict[str, Any]]:
    """The receipts of the tasks, as Ray Data finishes them."""
    if not tasks:
        return
    import ray

    quiet_ray_data()
    where = _only_here() if not all(map(storage.is_uri, _paths(tasks))) else {}
    rows = [{"task": task.to_json()} for task in tasks]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_run_row, num_cpus=1, **where)
    for row in data.iter_rows():
        told = json.loads(row["receipt"])
        if "error" in told:
            raise UserError(told["error"])
        yield told


def _paths(tasks: list[Task]) -> set[str]:
    """Every path that the tasks read or write."""
    return {task.folder for task in tasks} | {
        piece.path for task in tasks for piece in task.pieces if piece.format != "manual"
    }


def _only_here() -> dict[str, Any]:
    """Keep tasks on this node: what lies at a bare path, others need not see. A URI (`file://` too) goes anywhere."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) == 1:
        return {}
    mine = ray.get_runtime_context().get_node_id()
    cpus = next(node["Resources"].get("CPU", 0) for node in alive if node["NodeID"] == mine)
    require(
        cpus >= 1,
        f"a local corpus is prepared on the node of this command, which needs 1 CPU, found {cpus:g}: run it where "
        "there are CPUs, or give --corpus.path and --corpus.prepared as URIs (file:// for a disk that all nodes share)",
    )
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(mine, soft=False)}


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
    receipts = sorted(receipts, key=lambda receipt: (receipt["name"], receipt["number"]))
    splits = {}
    for name in SPLITS:
        of_split = [receipt["splits"][name] for receipt in receipts if name in receipt["splits"]]
        splits[name] = _split_entry(name, of_split, folder, Cache(config.cache, config.cache_bytes))
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


def _split_entry(name: str, receipts: list[dict[str, Any]], folder: str, cache: Cache) -> dict[str, Any]:
    listed = [Shard(**shard) for receipt in receipts for shard in receipt["shards"]]
    counts = np.array([receipt["histogram"] for receipt in receipts], np.int64).reshape(-1, 256).sum(axis=0)
    entry: dict[str, Any] = {
        "bytes": sum(shard.bytes for shard in listed),
        "documents": sum(shard.documents for shard in listed),
        "sha256": "",
        "order0_bpb": entropy(counts),
        "gzip_bpb": None,
        "xz_bpb": None,
        "sample_bytes": 0,
        "histogram": counts.tolist(),
        "inputs": _joined([tuple(entry) for receipt in receipts for entry in receipt["inputs"]]),
        "shards": [shard.to_dict() for shard in listed],
    }
    local = storage.local_path(folder)
    if local is not None:
        remember_verified([os.path.join(local, shard.name) for shard in listed])
    split = Split(folder, name, entry, "", cache=cache)
    digest = hashlib.sha256()
    for start in range(0, len(split), 1 << 26):
        digest.update(split.read(start, min(start + (1 << 26), len(split))).data)
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
    options = " ".join(
        f"--corpus.{name.replace('_', '-')} {shlex.quote(storage.without_secrets(str(value)))}"
        for name, value in given.items()
    )
    return f"python jobs/prepare.py {options}"
