"""CPU threads of torch on a machine that others use as well."""

import os
import time

import psutil

ASLEEP = {"OMP_WAIT_POLICY": "passive"}
"""Threads of OpenMP then sleep where they wait for each other. Otherwise they spin, and where other programs want the
cores too, take them from the very threads that they wait for: a step of preset `laptop` on two threads took 2.3 s so
and 0.2 s asleep, on 2 cores with a load of 4."""

_LOOK_SECONDS = 0.2
_ONE_CORE = 0.75
"""Cores that other programs must keep busy before it is worth a line."""


def wait_asleep() -> None:
    """Let torch's threads wait asleep, here and in the processes that this one starts. Call before torch is loaded."""
    for name, value in ASLEEP.items():
        os.environ.setdefault(name, value)


def cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def busy_cores() -> float:
    """How many of them other programs keep busy: looks for a fifth of a second, and leaves this process out."""
    before = _spent() - time.process_time()
    time.sleep(_LOOK_SECONDS)
    return max(0.0, (_spent() - time.process_time() - before) / _LOOK_SECONDS)


def busy_note(busy: float, threads: int) -> str | None:
    """A line where other programs keep `busy` cores of this machine, None where that is not worth one."""
    if busy < _ONE_CORE:
        return None
    each = f"{threads} thread{'s' if threads > 1 else ''}"
    return (
        f"other programs keep {min(busy, len(cores())):.1f} of {len(cores())} cores busy: steps take longer than they "
        f"would alone; {each} a worker, another number with --threads N"
    )


def _spent() -> float:
    """Seconds that the cores have worked since the machine's start."""
    times = psutil.cpu_times(percpu=True)
    return sum(sum(times[core][:3]) for core in cores() if core < len(times))  # user, nice, system on Linux
