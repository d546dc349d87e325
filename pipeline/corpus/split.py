"""One split of a prepared corpus: a mapped, verified stream of bytes."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from h2q.alphabet import ALPHABET, BYTES, MARKERS, Kind
from pipeline.corpus import shards
from pipeline.corpus.cache import Cache
from pipeline.corpus.shards import MappedShard, Shard
from pipeline.corpus.verified import is_verified, remember_verified
from pipeline.storage.path import AnyPath

Verify = Literal["first", "always"]


class Region(NamedTuple):
    """Symbols [start, stop) of a split, which so many lanes share. `name`: for messages."""

    name: str
    lanes: int
    start: int
    stop: int


class Split:
    """One split: a stream of N bytes over mapped shards. Shards are opened, and verified, when they are first read.

    Of a marked split, every document's first byte is a placeholder: it is read as the marker of the split's kind.
    """

    def __init__(
        self,
        folder: AnyPath,
        name: str,
        entry: dict[str, Any],
        rebuild: str,
        verify: Verify = "first",
        cache: Cache | None = None,
        marks: Kind | None = None,
    ) -> None:
        self.folder, self.name, self.rebuild, self.verify = folder, name, rebuild, verify
        self.marks: Kind | None = marks
        """The kind whose marker its documents begin with; None: it holds bytes only."""
        self.cache = cache or Cache()
        self._entry = entry
        self.bytes: int = entry["bytes"]
        """Bytes N of the split."""
        self.documents: int = entry["documents"]
        """Documents that begin in it."""
        self.sha256: str = entry["sha256"]
        """Digest of its bytes: what `sha256sum` says of them in one file; if it is marked, of its symbols, two bytes
        each (little-endian)."""
        self.order0_bpb: float | None = entry["order0_bpb"]
        """Entropy of its byte histogram, bits per byte."""
        self.gzip_bpb: float | None = entry["gzip_bpb"]
        """`gzip -9` of its first `sample_bytes`, bits per byte."""
        self.xz_bpb: float | None = entry["xz_bpb"]
        """`xz -9e` of its first `sample_bytes`, bits per byte."""
        self.sample_bytes: int = entry["sample_bytes"]
        # A million shards are no cause for a million objects: entries stay as the manifest has them until one is read.
        self._entries: list[dict[str, Any]] = entry["shards"]
        self._ends = np.cumsum([entry["bytes"] for entry in self._entries]).tolist()
        self._maps: OrderedDict[int, MappedShard] = OrderedDict()
        self._remote = not isinstance(folder, Path)
        self._lock = threading.Lock()

    @cached_property
    def shards(self) -> list[Shard]:
        """What the manifest says of each shard, in order."""
        return [Shard(**entry) for entry in self._entries]

    @property
    def histogram(self) -> list[int]:
        """How often each byte value occurs in it (256)."""
        return self._entry["histogram"]

    @property
    def first_input(self) -> str:
        """The name of the input that its first byte is from."""
        return next((name for name, size in self._entry["inputs"] if size), "")

    @property
    def alphabet(self) -> int:
        """How many symbols there are of which it may be made."""
        return BYTES if self.marks is None else ALPHABET

    @property
    def dtype(self) -> type[np.integer]:
        """Of what is read: uint8 for bytes, int16 for symbols."""
        return np.uint8 if self.marks is None else np.int16

    def __len__(self) -> int:
        return self.bytes

    def regions(self, lanes: int) -> list[Region]:
        """Which lanes read which symbols: all of them share all."""
        return [Region(f"{self.name} split", lanes, 0, self.bytes)]

    def __reduce__(self) -> Any:
        return Split, (self.folder, self.name, self._entry, self.rebuild, self.verify, self.cache, self.marks)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Bytes [start, stop) as uint8, without a copy where they lie in one shard; of a marked split its symbols as
        int16."""
        assert 0 <= start <= stop <= self.bytes, (start, stop, self.bytes)
        number = bisect_right(self._ends, start)
        parts = []
        while start < stop:
            base = self._ends[number] - self._entries[number]["bytes"]
            end = min(stop, self._ends[number])
            mapped = self._mapped(number)
            data = mapped.data[start - base : end - base]
            parts.append(data if self.marks is None else _symbols(data, mapped.starts, start - base, self.marks))
            start, number = end, number + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def stream(self) -> Iterator[np.ndarray]:
        """The split's bytes in order as they are stored (uint8), a shard at a time; no more than one stays mapped."""
        for number in range(len(self._entries)):
            yield self._mapped(number).data
            with self._lock:
                self._maps.pop(number, None)

    def symbols(self) -> Iterator[np.ndarray]:
        """The same as they are read."""
        for end, entry in zip(self._ends, self._entries, strict=True):
            yield self.read(end - entry["bytes"], end)
            with self._lock:
                self._maps.clear()

    def document_starts(self, stop: int | None = None) -> np.ndarray:
        """The offsets in the split at which its documents begin (int64); `stop`: of those before it, for which no more
        shards are opened than it needs."""
        stop = len(self) + 1 if stop is None else stop  # an empty document may be the last
        bases = [end - entry["bytes"] for end, entry in zip(self._ends, self._entries, strict=True)]
        starts = [self._mapped(number).starts + base for number, base in enumerate(bases) if base < stop]
        found = np.concatenate(starts) if starts else np.empty(0, np.int64)
        return found[: np.searchsorted(found, stop)]

    def contents(self, numbers: Iterable[int] | None = None) -> Iterator[bytes]:
        """What stands behind the marker of each document of a marked split, in order; `numbers`: of these alone."""
        edges = [*self.document_starts().tolist(), len(self)]
        for number in range(len(edges) - 1) if numbers is None else numbers:
            yield self.read(edges[number] + 1, edges[number + 1]).astype(np.uint8).tobytes()

    def _mapped(self, number: int) -> MappedShard:
        mapped = self._maps.get(number)
        if mapped is not None and not self._remote:
            return mapped
        with self._lock:
            if number in self._maps:
                self._maps.move_to_end(number)
            else:
                self._maps[number] = self._open(Shard(**self._entries[number]))
            return self._maps[number]

    def _open(self, shard: Shard) -> MappedShard:
        path = self.folder / shard.name
        if not isinstance(path, Path):
            cached = self.cache.fetch(path, shard, self.rebuild, self.verify == "always", self._forget)
            return replace(shards.map_shard(cached.path, shard, self.rebuild), cached=cached)
        mapped = shards.map_shard(path, shard, self.rebuild)
        if self.verify == "always" or not is_verified(path):
            shards.check_sha256(path, shard, self.rebuild)
            remember_verified([path])
        return mapped

    def _forget(self) -> bool:
        """Let go of the cached shard that was not read for longest; False when there is none."""
        if not self._maps:
            return False
        self._maps.popitem(last=False)
        return True


def _symbols(data: np.ndarray, starts: np.ndarray, offset: int, marks: Kind) -> np.ndarray:
    """The bytes as symbols (int16), with the marker where one of the documents begins; `offset`: of the first byte."""
    symbols = data.astype(np.int16)
    first, last = np.searchsorted(starts, (offset, offset + len(data)))
    symbols[starts[first:last] - offset] = MARKERS[marks]
    return symbols
