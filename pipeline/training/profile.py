"""A trace of a few training steps: what host and device do, microsecond by microsecond."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

BEFORE = 3
"""Steps that pass first: libraries load, a graph is captured."""


class StepProfile:
    """In a `with` block: call `next` behind each step. Traces `steps` of them, none if 0 or not `active`."""

    def __init__(self, file: Path, steps: int, device: torch.device, *, active: bool = True) -> None:
        """`file`: a name that ends in .json.gz; for https://ui.perfetto.dev or chrome://tracing."""
        self._file, self._steps, self._cuda = file, steps if active else 0, device.type == "cuda"
        self._profiler: Any = None

    def __enter__(self) -> Self:
        if self._steps:
            from torch.profiler import ProfilerActivity, profile, schedule

            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._cuda
            times = schedule(wait=BEFORE - 1, warmup=1, active=self._steps, repeat=1)
            self._profiler = profile(activities=activities, schedule=times, on_trace_ready=self._write, acc_events=True)
            self._profiler.start()
        return self

    def next(self) -> None:
        """One more step is done."""
        if self._profiler is not None:
            self._profiler.step()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._profiler.stop()

    def _write(self, profiler: Any) -> None:
        with tempfile.TemporaryDirectory() as aside:
            path = Path(aside) / self._file.name
            profiler.export_chrome_trace(str(path))
            self._file.parent.mkdir(exist_ok=True)
            self._file.write_bytes(path.read_bytes())
