"""One case at a time within the time that is left: its rate, its memory, or why it has none; steps as CUDA graphs."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch

from h2q.kernels.capture import capturing
from pipeline.benchmark.timing import wait

Result = TypeVar("Result")

WARM_STEPS = 3
"""Calls before a step is recorded or timed: what is made once is made in them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to be timed."""

    part: str
    name: str
    make: Callable[[], Callable[[], object]]
    """Builds what it needs, within the case's own memory, and returns what is timed."""
    amount: float
    """What one call does, in units of `unit`."""
    unit: str = "B/s"
    batch: str = ""
    needs_seconds: float = 3.0
    """Left out when less than this is left."""


@dataclass
class Bench:
    """Where and how long cases are timed. `rows` grows by one for each."""

    device: torch.device
    seconds: float
    """Seconds of timed calls for a case."""
    rounds: int
    """Turns into which they are cut; the figure is their median."""
    deadline: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def add(self, part: str, case: str, batch: str = "", **values: Any) -> None:
        """A row of the table; columns without a value stay empty."""
        blank = {"ms": "", "rate": "", "unit": "", "× published": "", "peak MiB": "", "note": ""}
        self.rows.append({"part": part, "case": case, "batch": batch} | blank | values)

    def time(self, case: Case) -> None:
        """Time a case. One without enough time or memory is a row that says so, as is one that torch refuses."""
        if self.left < case.needs_seconds:
            self.add(case.part, case.name, case.batch, note="left out: the time is up")
            return
        try:
            values = self._timed(case)
        except torch.OutOfMemoryError:
            values = {"note": "out of memory"}
        except RuntimeError as error:
            values = {"note": f"failed: {str(error).strip().splitlines()[0][:150]}"}
        self.add(case.part, case.name, case.batch, **values)
        free_memory()

    def _timed(self, case: Case) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        held = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        work = case.make()
        each = median(timed(work, self.seconds, self.rounds))
        values = {"ms": 1e3 * each, "rate": case.amount / each, "unit": case.unit}
        if cuda:
            values["peak MiB"] = round((torch.cuda.max_memory_allocated() - held) / 2**20)
        return values


def timed(work: Callable[[], object], seconds: float, rounds: int) -> list[float]:
    """Seconds of one call, in each round: a round is as many calls, one behind the other, as fill its share."""
    for _ in range(WARM_STEPS):
        work()
    wait()
    begin = time.perf_counter()
    work()
    wait()
    once = time.perf_counter() - begin
    calls, rounds = max(1, round(seconds / rounds / once)), max(2, min(rounds, round(seconds / once)))
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        found.append((time.perf_counter() - begin) / calls)
    return found


def captured(step: Callable[[], Result]) -> Callable[[], Result]:
    """The step as a CUDA graph; a call replays it and returns what stands where the recorded step put its result."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        result = step()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def free_memory() -> None:
    """Give back what the last case held, its graph's own memory too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
