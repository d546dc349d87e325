"""What general compressors make of the very same bytes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from pipeline.corpus.compressors import compressors, xz_bytes
from pipeline.evaluation.kinds import KindOf, blocks_of, reference_sizes
from pipeline.evaluation.prequential import Point, coded, milestones
from pipeline.evaluation.report import Milestone
from pipeline.evaluation.windows import Stream

Sizes = Callable[[], tuple[dict[str, int], list[dict[str, int]]]]
"""Waits for the compressors; gives the bytes that each needs, by its name, and the same for each kind of documents."""


@contextmanager
def compressing(data: Stream, kinds: list[KindOf], *, wanted: bool) -> Iterator[Sizes]:
    """Inside, compressors work on the data in threads of their own; the block is given what waits for their sizes.

    Not `wanted`, there are none.
    """
    if not wanted:
        yield lambda: ({}, [{} for _ in kinds])
        return
    left = Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = {
            name: pool.submit(compress, blocks_of(data, left.is_set), len(data))
            for name, compress in compressors().items()
        }
        of_kinds = [pool.submit(reference_sizes, of, left.is_set) for of in kinds]
        try:
            yield lambda: (
                {name: future.result() for name, future in waiting.items()},
                [future.result() for future in of_kinds],
            )
        finally:
            left.set()  # Whoever was interrupted does not wait for xz.


def learning_curve(points: list[Point], data: Stream, lanes: int, *, compressed: bool) -> list[Milestone]:
    """The learner at a dozen points, beside `xz -9e` of the bytes that are coded there where they are `compressed`."""

    def xz(point: Point) -> float | None:
        size = xz_bytes(coded(data, lanes, point.consumed), point.bytes) if compressed else None
        return None if size is None else 8 * size / point.bytes

    return [Milestone(point.bytes, point.bits / point.bytes, xz(point)) for point in milestones(points)]
