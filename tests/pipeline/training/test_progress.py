"""Progress: what is shown is what was recorded, live or as plain lines."""

from io import StringIO

import pytest
from rich.console import Console

from pipeline.config import RunConfig, TrainingConfig
from pipeline.terminal import human_bytes, human_seconds
from pipeline.training.progress import Progress

RECORD = {
    "step": 10,
    "train/bpb": 3.21,
    "energy/block_00": 5.0,
    "energy/block_01": 7.5,
    "growth/rank": 8,
    "bytes_per_second": 30720.0,
    "memory/peak_bytes": 412_000_000,
}


@pytest.mark.parametrize("terminal", [True, False])
def test_a_record_is_shown_with_all_that_matters(terminal: bool) -> None:
    said = StringIO()
    console = Console(file=said, width=200, force_terminal=terminal)
    with Progress(console, RunConfig(training=TrainingConfig(steps=100, lanes=24))) as progress:
        progress.show([RECORD, {"step": 20, "validation/bpb": 3.0}])
    for word in ("step", "3.210 bpb", "validation 3.000", "energy 7.5", "rank 8", "30.7 kB/s", "412 MB", "ETA 0:08"):
        assert word in said.getvalue(), word


def test_plain_lines_are_few_but_every_validation_is_one() -> None:
    said = StringIO()
    with Progress(Console(file=said, width=200), RunConfig(training=TrainingConfig(steps=100))) as progress:
        for step in range(50):
            progress.show([RECORD | {"step": step}])
        progress.show([{"step": 50, "validation/bpb": 3.0}])
        progress.show([{"step": 60, "validation/bpb": 2.9}])
    lines = said.getvalue().splitlines()
    assert len(lines) == 3 and "validation 3.000" in lines[1] and "validation 2.900" in lines[2]


def test_numbers_for_people() -> None:
    assert [human_bytes(count) for count in (7, 1234, 12_345_678, 9.9e10)] == ["7 B", "1.23 kB", "12.3 MB", "99 GB"]
    assert [human_seconds(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


@pytest.mark.parametrize("terminal", [True, False])
def test_brackets_in_a_path_are_shown_as_they_are(terminal: bool) -> None:
    said = StringIO()
    console = Console(file=said, width=200, force_terminal=terminal)
    with Progress(console, RunConfig()) as progress:
        progress.say("run /data/[red]/[/x]")
        progress.stage("opening /data/[red]/[/x]")
    assert "run /data/[red]/[/x]" in said.getvalue() and "opening /data/[red]/[/x]" in said.getvalue()
