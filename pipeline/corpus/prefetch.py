"""Batches a step or two ahead of the loop that uses them, on a thread of their own."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

from pipeline.corpus.lanes import Batch, Lanes


class Prefetch:
    """`batches = Prefetch(lanes, …); x, y = batches(step)`: the batch of the step, while those of the next are read.

    Any step may be asked for at any time, since a batch is a pure function of its step: asking in order is merely
    quicker. On CUDA the bytes are copied from pinned memory beside the computation and become int64 on the device.
    `close` it, or use it in a `with` block; errors of reading are raised where the batch is asked for.
    """

    def __init__(
        self,
        lanes: Lanes,
        *,
        world_rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        ahead: int = 2,
    ) -> None:
        self._lanes, self._rank, self._size, self._ahead = lanes, world_rank, world_size, ahead
        self._device = torch.device(device)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: dict[int, Future[tuple[Batch, torch.cuda.Event | None]]] = {}
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def __call__(self, step: int) -> Batch:
        """The worker's rows of the global batch of the step: inputs and targets, (L/W, T) int64, on the device."""
        wanted = range(step, step + self._ahead + 1)
        for other in [other for other in self._coming if other not in wanted]:
            self._coming.pop(other).cancel()
        for other in wanted:
            if other not in self._coming:
                self._coming[other] = self._pool.submit(self._read, other)
        batch, ready = self._coming.pop(step).result()
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            for part in batch:
                # Their memory was allocated on the copying stream: it must outlive the work of this one.
                part.record_stream(stream)
        return batch

    def _read(self, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        if self._stream is None:
            return self._lanes.batch(step, self._rank, self._size, self._device), None
        rows = torch.from_numpy(self._lanes.rows(step, self._rank, self._size)).pin_memory()
        with torch.cuda.stream(self._stream):
            data = rows.to(self._device, non_blocking=True).long()
            batch = data[:, :-1].contiguous(), data[:, 1:].contiguous()
            ready = torch.cuda.Event()
            ready.record(self._stream)
        # Pinned memory goes back to torch's own pool, which waits for the copy before it is used again.
        return batch, ready

    def close(self) -> None:
        """Stop reading; returns when the thread has ended."""
        self._coming.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
