"""The shard format: an immutable Arrow IPC file of bytes. Write, verify, map.

One column, `document`, of type large_list<uint8>, in one record batch: a row is a document, and the values of all rows
lie side by side, uncompressed, so that a memory map of the file *is* the stream of bytes, without a copy. A document
that crosses shards is one row in each; the schema's metadata says whether row 0 continues the shard before.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from h2q.errors import UserError, require
from pipeline.storage import uri as storage
from pipeline.storage.path import AnyPath

VERSION = "1"
_TYPE = pa.large_list(pa.field("item", pa.uint8(), nullable=False))


@dataclass(frozen=True)
class Shard:
    """What the manifest says of a shard: its file and that file's sha256, its bytes, documents begun in it."""

    name: str
    bytes: int
    documents: int
    file_bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class MappedShard:
    """A mapped shard: its bytes (uint8, read-only), and the offsets at which its documents begin.

    `cached`, for a shard in a node's cache, keeps it there while it is mapped.
    """

    data: np.ndarray
    starts: np.ndarray
    cached: Any = None


class ShardWriter:
    """Cuts a stream of blocks into shards of `shard_bytes` and hands each one, finished, to `write(file bytes, …)`.

    Holds one shard in memory. Iterate `add` and `finish`: each yields a shard as soon as it is full.
    """

    def __init__(self, split: str, shard_bytes: int) -> None:
        self._split = split
        self._buffer = np.empty(shard_bytes, np.uint8)
        self._used = 0
        self._starts: list[np.ndarray] = []

    def add(self, block: np.ndarray, starts: np.ndarray) -> Iterator["PackedShard"]:
        """Append a block (uint8). `starts` (int64, rising, within 0..len) are the offsets where documents begin; one at
        the very end is an empty document."""
        while True:
            if len(block) and self._used == len(self._buffer):
                yield self._pack()
            taken = min(len(block), len(self._buffer) - self._used)
            here = np.searchsorted(starts, taken, side="right" if taken == len(block) else "left")
            self._buffer[self._used : self._used + taken] = block[:taken]
            self._starts.append(starts[:here] + self._used)
            self._used += taken
            block, starts = block[taken:], starts[here:] - taken
            if not len(block):
                return

    def finish(self) -> Iterator["PackedShard"]:
        """The last shard, if anything is left."""
        if self._used or sum(map(len, self._starts)):
            yield self._pack()

    def _pack(self) -> "PackedShard":
        packed = pack(self._split, self._buffer[: self._used], np.concatenate(self._starts))
        self._used, self._starts = 0, []
        return packed


@dataclass(frozen=True)
class PackedShard:
    """A shard in memory: the file's content, and what is known of the stream in it."""

    content: pa.Buffer
    bytes: int
    documents: int
    histogram: np.ndarray

    def write(self, folder: AnyPath, name: str) -> Shard:
        """Write it atomically; what was written, for the manifest."""
        digest = hashlib.sha256(self.content).hexdigest()
        storage.write_atomic(folder / name, self.content)
        return Shard(name, self.bytes, self.documents, self.content.size, digest)


def pack(split: str, data: np.ndarray, starts: np.ndarray) -> PackedShard:
    """The shard file of these bytes. The same bytes and starts give the same file, bit for bit."""
    continues = not (len(starts) and starts[0] == 0) and len(data) > 0
    offsets = np.concatenate([[0] if continues else [], starts, [len(data)]]).astype(np.int64)
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(data), type=_TYPE)
    about = {"format": "h2q-bytes", "version": VERSION, "split": split, "continues": str(int(continues))}
    schema = pa.schema([pa.field("document", _TYPE, nullable=False)], metadata=about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    return PackedShard(sink.getvalue(), len(data), len(starts), histogram(data))


def histogram(data: np.ndarray) -> np.ndarray:
    """How often each byte value occurs: (256,) int64."""
    counts = np.zeros((256, 256), np.int64)
    pairs = data[: len(data) // 2 * 2].view(np.uint16)
    # numpy counts through a copy in int64: by pairs, and a megabyte at a time, that copy is small and stays in cache.
    for at in range(0, len(pairs), 1 << 19):
        counts += np.bincount(pairs[at : at + (1 << 19)], minlength=1 << 16).reshape(256, 256)
    total = counts.sum(axis=0) + counts.sum(axis=1)
    if len(data) % 2:
        total[data[-1]] += 1
    return total


def map_shard(path: Path, shard: Shard, rebuild: str) -> MappedShard:
    """Map the shard at a local path.

    Raises: UserError when it is missing, of another size, or no shard of this version.
    """
    check_size(path, path.stat().st_size if path.exists() else None, shard, rebuild)
    try:
        file = pa.ipc.open_file(pa.memory_map(os.fsencode(path)))
        about = {key.decode(): value.decode() for key, value in (file.schema.metadata or {}).items()}
        version = about.get("version", "none") if about.get("format") == "h2q-bytes" else "none"
        require(
            version == VERSION,
            f"shard {path} must be of format version {VERSION}, found {version}; rebuild it: {rebuild}",
        )
        column: Any = file.get_batch(0).column(0)
        data = column.values.to_numpy(zero_copy_only=True)
        starts = column.offsets.to_numpy(zero_copy_only=True)[int(about["continues"]) : -1]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"shard {path} cannot be read as Arrow IPC ({error}); rebuild it: {rebuild}") from error
    require(
        len(data) == shard.bytes and len(starts) == shard.documents,
        f"shard {path} must hold {shard.bytes} bytes in {shard.documents} documents, "
        f"found {len(data)} in {len(starts)}; rebuild it: {rebuild}",
    )
    return MappedShard(data, starts)


def check_size(path: AnyPath, size: int | None, shard: Shard, rebuild: str) -> None:
    """Raises: UserError when the shard is missing (no size) or has another size than the manifest says."""
    require(size is not None, f"shard {path} is missing ({shard.file_bytes} bytes expected); rebuild it: {rebuild}")
    require(
        size == shard.file_bytes,
        f"shard {path} must have {shard.file_bytes} bytes, found {size}; rebuild it: {rebuild}",
    )


def check_sha256(path: Path, shard: Shard, rebuild: str) -> None:
    """Raises: UserError when the content of a local shard is not what the manifest says."""
    sha256 = sha256_of(path)
    require(
        sha256 == shard.sha256,
        f"shard {path} must have sha256 {shard.sha256}, found {sha256}: its content was altered; rebuild it: {rebuild}",
    )


def sha256_of(path: AnyPath) -> str:
    """The digest of a file; a local one is mapped, not read into memory."""
    if isinstance(path, Path):
        with pa.memory_map(os.fsencode(path)) as file:
            return hashlib.sha256(file.read_buffer()).hexdigest()
    digest = hashlib.sha256()
    with storage.opened(path) as file:
        while block := file.read(1 << 23):
            digest.update(block)
    return digest.hexdigest()
