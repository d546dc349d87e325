"""The Python reference manual, which every CPython carries (`pydoc_data.topics`): a corpus without a file."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.prepare.inputs import Block, InputPart, Reading

_NAME = "pydoc_data.topics"


def manual() -> tuple[bytes, np.ndarray]:
    """Its text, topics by name, a blank line after each, and where they start (int64)."""
    from pydoc_data import topics as module

    texts = [(text.strip() + "\n\n").encode() for _, text in sorted(module.topics.items())]
    return b"".join(texts), np.cumsum([0, *map(len, texts[:-1])], dtype=np.int64)


def topics() -> list[InputPart]:
    """Its documents."""
    text, starts = manual()
    edges = [*starts.tolist(), len(text)]
    return [InputPart(Path(_NAME), _NAME, "manual", start, stop, stop - start) for start, stop in pairwise(edges)]


def read(part: InputPart, reading: Reading) -> Iterator[Block]:
    """Bytes [start, stop) of the text; a topic is a document."""
    text, starts = manual()
    here = starts[(starts >= part.start) & (starts < part.stop)] - part.start
    yield np.frombuffer(text, np.uint8)[part.start : part.stop], here
