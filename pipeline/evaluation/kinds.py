"""Each kind of documents in the data by itself: what its code takes, beside codecs made for that kind.

A marked document is its marker, a header where its kind has one, and its content (see `h2q.alphabet`). All three are in
the code; what it is divided by is the content: pixels, samples, text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from h2q.alphabet import HEADER, Kind
from pipeline.corpus.compressors import gzip_bytes, xz_bytes
from pipeline.corpus.mixed import MixedSplit
from pipeline.corpus.split import Split
from pipeline.evaluation.windows import Stream
from pipeline.senses.codecs import codec_sizes

_BLOCK = 1 << 20


@dataclass(frozen=True)
class KindOf:
    """The documents of one kind, as a stream of their own."""

    kind: Kind
    split: Split

    @property
    def content(self) -> int:
        """Bytes behind markers and headers."""
        header = HEADER if self.kind in ("image", "audio") else 0
        return len(self.split) - self.split.documents * (1 + header)


@dataclass(frozen=True, kw_only=True)
class KindCode:
    """What one kind costs. bpb: bits per byte of content, markers and headers in the bits."""

    kind: Kind
    documents: int
    content: int
    """Bytes."""
    bits: float
    bpb: float
    references: dict[str, float]
    """bpb of gzip and xz, over the whole stream, and of codecs, a file for each document."""


def kinds_in(data: Stream) -> list[KindOf]:
    """The kinds of a marked split, in their order; none of anything else."""
    if isinstance(data, MixedSplit):
        return [KindOf(part.kind, part.split) for part in data.parts if len(part.split) > 1]
    if isinstance(data, Split) and data.marks is not None:
        return [KindOf(data.marks, data)]
    return []


def blocks_of(data: Stream, stopped: Callable[[], bool]) -> Iterator[np.ndarray]:
    """The data in blocks of 1 MiB at most, until `stopped` says so."""
    for part in data.stream():
        for start in range(0, len(part), _BLOCK):
            if stopped():
                return
            yield part[start : start + _BLOCK]


def reference_sizes(of: KindOf, stopped: Callable[[], bool]) -> dict[str, int]:
    """Bytes that others need for all of it, until `stopped` says so."""
    sizes = {
        "gzip -9": gzip_bytes(blocks_of(of.split, stopped)),
        "xz -9e": xz_bytes(blocks_of(of.split, stopped), len(of.split)),
    }
    if of.kind == "image" or of.kind == "audio":
        sizes |= codec_sizes(of.kind, takewhile(lambda _: not stopped(), of.split.contents()))
    return sizes


def code_of(of: KindOf, bits: float, sizes: dict[str, int]) -> KindCode:
    """The result for a kind. `bits`: of its code; `sizes`: bytes that others need."""
    content = max(1, of.content)
    return KindCode(
        kind=of.kind,
        documents=of.split.documents,
        content=of.content,
        bits=bits,
        bpb=bits / content,
        references={name: 8 * size / content for name, size in sizes.items()},
    )
