"""Threads: waited for briefly, and a busy machine is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import threads
from pipeline.threads import busy_note, cores, wait_asleep_where_busy, waits


@pytest.mark.ray  # a program of its own
def test_every_job_lets_threads_wait_briefly_unless_told_otherwise() -> None:
    code = "import os, pipeline.cli\npipeline.cli.run(lambda args: print(os.environ.get('GOMP_SPINCOUNT')))"
    root, told = Path(__file__).parents[2], ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    free = {name: value for name, value in os.environ.items() if name not in told}
    for given, wanted in (({}, "20000\n"), ({"OMP_WAIT_POLICY": "active"}, "None\n"), ({"GOMP_SPINCOUNT": "7"}, "7\n")):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=free | given, capture_output=True, text=True, check=False
        )
        assert done.stdout == wanted, done.stderr


@pytest.mark.parametrize("spins", ["0", "7"])
def test_a_line_says_that_others_work_here(spins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", spins)
    assert busy_note(0.3, 2) is None
    alone, two = busy_note(0.9, 1) or "", busy_note(0.9, 2) or ""
    assert f"keep 0.9 of {len(cores())} cores busy" in alone and "1 thread a worker;" in alone
    assert "2 threads a worker" in two and ("which sleep while they wait" in two) == (spins == "0")


@pytest.mark.parametrize(("busy", "set_to", "then"), [(1.5, "20000", "0"), (0.1, "20000", "20000"), (1.5, "7", "7")])
def test_where_others_work_threads_sleep_while_they_wait_unless_told_otherwise(
    busy: float, set_to: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_busy_cores", lambda: busy)
    monkeypatch.setenv("GOMP_SPINCOUNT", set_to)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert wait_asleep_where_busy() == busy
    assert waits() == {"GOMP_SPINCOUNT": then}


def test_what_this_process_does_itself_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter([10.0, 10.3])
    monkeypatch.setattr(threads, "_spent", lambda: next(spent))
    worked = iter([1.0, 1.2])
    monkeypatch.setattr(threads.time, "process_time", lambda: next(worked))
    assert threads._busy_cores() == pytest.approx(0.1 / 0.2)
