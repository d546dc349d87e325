"""Peak memory of a piece of work: on a GPU as its allocator counts, on a CPU as the profiler records allocations."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Largest memory held during a step beyond what was held before it; a first call makes what stays."""
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    results = profiler.profiler
    assert results is not None and results.kineto_results is not None
    changes = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()  # type: ignore[attr-defined]
        highest = max(highest, now)
    return highest
