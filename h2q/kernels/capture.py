"""Recording work as a CUDA graph."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def capturing(graph: Any, **options: Any) -> Iterator[None]:
    """`torch.cuda.graph` without Python's garbage collector, which could free an earlier graph just then: that is
    nothing a capture allows, and the capture would fail."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, **options):
            yield
    finally:
        if enabled:
            gc.enable()
