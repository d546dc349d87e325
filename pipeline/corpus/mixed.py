"""A split of several kinds: the splits of a mix's corpora end to end, each with lanes of its own."""

import hashlib
import json
from collections.abc import Iterator
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

from h2q.alphabet import ALPHABET, Kind
from pipeline.corpus.shards import Shard
from pipeline.corpus.split import Region, Split


class MixedPart(NamedTuple):
    """One kind's part of a split, and how many lanes read it."""

    kind: Kind
    lanes: int
    split: Split


class MixedSplit:
    """One split of a mix: as a `Split`, of symbols."""

    alphabet = ALPHABET
    dtype = np.int16

    def __init__(self, parts: tuple[MixedPart, ...]) -> None:
        self.parts = parts
        self.name = parts[0].split.name
        sizes = [len(part.split) for part in parts]
        self._edges = [0, *accumulate(sizes)]
        self.bytes, self.documents = sum(sizes), sum(part.split.documents for part in parts)
        self.sample_bytes = sum(part.split.sample_bytes for part in parts)
        self.sha256 = digest_of([(part.kind, part.split.sha256) for part in parts])
        """Digest of those of its parts."""
        self.order0_bpb = self._mean([part.split.order0_bpb for part in parts])
        """Of this and of the compressors, what the parts need together, each by itself."""
        self.gzip_bpb = self._mean([part.split.gzip_bpb for part in parts])
        self.xz_bpb = self._mean([part.split.xz_bpb for part in parts])

    @property
    def shards(self) -> list[Shard]:
        """Those of its parts, in order."""
        return [shard for part in self.parts for shard in part.split.shards]

    @property
    def histogram(self) -> list[int]:
        """How often each byte value occurs in it (256)."""
        return np.sum([part.split.histogram for part in self.parts], axis=0).tolist()

    def __len__(self) -> int:
        return self.bytes

    def regions(self, lanes: int) -> list[Region]:
        """Which lanes read which symbols: those of each part, in the order of the mix."""
        assert lanes == sum(part.lanes for part in self.parts), (lanes, self.parts)
        return [
            Region(f"{self.name} split of {kind}", count, start, start + len(split))
            for (kind, count, split), start in zip(self.parts, self._edges[:-1], strict=True)
        ]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Symbols [start, stop) as int16."""
        assert 0 <= start <= stop <= self.bytes, (start, stop, self.bytes)
        found = [
            part.split.read(max(start - first, 0), min(stop, end) - first)
            for part, first, end in zip(self.parts, self._edges[:-1], self._edges[1:], strict=True)
            if start < end and stop > first
        ]
        return found[0] if len(found) == 1 else np.concatenate(found) if found else np.empty(0, np.int16)

    def stream(self) -> Iterator[np.ndarray]:
        """Its bytes in order as they are stored (uint8)."""
        return chain.from_iterable(part.split.stream() for part in self.parts)

    def document_starts(self, stop: int | None = None) -> np.ndarray:
        """The offsets in it at which documents begin (int64), as those of a `Split`."""
        stop = len(self) if stop is None else stop
        parts = zip(self.parts, self._edges[:-1], strict=True)
        return np.concatenate([part.split.document_starts(max(0, stop - first)) + first for part, first in parts])

    def _mean(self, rates: list[float | None]) -> float | None:
        """Of a rate of each part, by its bytes."""
        known = [(rate, len(part.split)) for rate, part in zip(rates, self.parts, strict=True) if len(part.split)]
        if not known or any(rate is None for rate, _ in known):
            return None
        return sum((rate or 0.0) * size for rate, size in known) / self.bytes


AnySplit = Split | MixedSplit
"""What is read in lanes."""


def digest_of(parts: list[tuple[Kind, str]]) -> str:
    """Digest of the kinds and what was said of each, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()
