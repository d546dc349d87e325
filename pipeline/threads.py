"""CPU threads of torch on a machine that others use as well."""

import os
import time

import psutil

_SPINS = "GOMP_SPINCOUNT"
"""How often a thread of GNU's OpenMP looks whether the others are done before it sleeps. Left to itself it looks for
milliseconds, and where other programs want the cores, takes them from the very threads that it waits for. The figures:
`pipeline/benchmark/README.md`, 2026-11-27."""
_BRIEFLY = "20000"
"""Some 50 µs: asleep at once, two threads on idle cores are slower than one."""
_AT_ONCE = "0"
"""Where other programs keep the cores busy, even that is too long."""

_LOOK_SECONDS = 0.2
_ONE_CORE = 0.75
"""Cores that other programs must keep busy before it is worth a line."""


def waits() -> dict[str, str]:
    """The environment that tells how torch's threads wait for each other: as it is set, else briefly awake."""
    said = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", _SPINS) if name in os.environ}
    return said or {_SPINS: _BRIEFLY}


def wait_asleep_where_busy() -> float:
    """Look around; where other programs keep cores busy, torch's threads will sleep at once when they wait, unless the
    user has said how they wait. To be called before torch is loaded. How many cores are kept busy.
    """
    busy = _busy_cores()
    if busy >= _ONE_CORE and os.environ.get(_SPINS) == _BRIEFLY:
        os.environ[_SPINS] = _AT_ONCE
    return busy


def cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _busy_cores() -> float:
    """How many of them other programs keep busy: looks for a fifth of a second, and leaves this process out."""
    before = _spent() - time.process_time()
    time.sleep(_LOOK_SECONDS)
    return max(0.0, (_spent() - time.process_time() - before) / _LOOK_SECONDS)


def busy_note(busy: float, threads: int) -> str | None:
    """A line where other programs keep `busy` cores of this machine, None where that is not worth one."""
    if busy < _ONE_CORE:
        return None
    each = f"{threads} threads a worker" if threads > 1 else "1 thread a worker"
    if threads > 1 and os.environ.get(_SPINS) == _AT_ONCE:
        each += ", which sleep while they wait"
    return (
        f"other programs keep {min(busy, len(cores())):.1f} of {len(cores())} cores busy: steps take longer than they "
        f"would alone; {each}; another number with --threads N"
    )


def _spent() -> float:
    """Seconds that the cores have worked since the machine's start."""
    times = psutil.cpu_times(percpu=True)
    return sum(sum(times[core][:3]) for core in cores() if core < len(times))  # user, nice, system on Linux
