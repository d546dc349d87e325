"""Threads: waited for asleep, and a busy machine is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import threads
from pipeline.threads import busy_cores, busy_note, cores


def test_every_job_lets_threads_wait_asleep_unless_told_otherwise() -> None:
    code = "import os, pipeline.cli\npipeline.cli.run(lambda args: print(os.environ['OMP_WAIT_POLICY']))"
    root = Path(__file__).parents[2]
    for given, wanted in (({}, "passive\n"), ({"OMP_WAIT_POLICY": "active"}, "active\n")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == wanted, done.stderr


def test_a_line_says_that_others_work_here() -> None:
    assert busy_note(0.3, 2) is None
    assert f"keep 0.9 of {len(cores())} cores busy" in (busy_note(0.9, 1) or "") and "1 thread a" in (
        busy_note(0.9, 1) or ""
    )


def test_what_this_process_does_itself_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter([10.0, 10.3])
    monkeypatch.setattr(threads, "_spent", lambda: next(spent))
    worked = iter([1.0, 1.2])
    monkeypatch.setattr(threads.time, "process_time", lambda: next(worked))
    assert busy_cores() == pytest.approx(0.1 / 0.2)
